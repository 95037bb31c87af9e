"""The report as JUnit XML, for CI servers."""

from pathlib import Path
from xml.etree import ElementTree

from grpc_idempotency.check._reports.json import Command
from grpc_idempotency.check._results import Report, Result, Verdict
from grpc_idempotency.check._text import plain  # since XML can't have control characters


def write_junit(report: Report, command: Command, file: str) -> None:
    """Writes a report as JUnit XML. An unclear probe is an error there, so that no CI server takes it for a success.

    Args:
        report: The report.
        command: Returns the command that runs a probe again.
        file: The path of the file.
    """
    verdicts = [_element(one) for one in report.results]
    counts = {kind: str(verdicts.count(kind)) for kind in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=f"{report.method[1:]} at {report.address}",
        tests=str(len(report.results)),
        failures=counts["failure"],
        errors=counts["error"],
        skipped=counts["skipped"],
        time=f"{sum(one.seconds for one in report.results):.3f}",
    )
    for result in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname="grpc-idempotency check", name=result.probe, time=f"{result.seconds:.3f}"
        )
        if element := _element(result):
            told = ElementTree.SubElement(case, element, message=plain(result.happened))
            if element != "skipped":
                told.text = plain(f"{result.means}\n{result.advice}\n{command(result)}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    Path(file).write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _element(result: Result) -> str:
    """Returns the element that a verdict becomes; empty for a success."""
    if result.verdict is Verdict.SKIPPED or (result.known and result.verdict is not Verdict.PASSED):
        return "skipped"
    return {Verdict.FAILED: "failure", Verdict.UNCLEAR: "error", Verdict.PASSED: ""}[result.verdict]
