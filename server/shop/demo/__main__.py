"""``python -m shop.demo``: exit code 0 if every promise held, else 1."""

import argparse
import os
import sys

if __name__ == "__main__":
    # gRPC reads this when it is imported. Its log lines about connections that are cut on purpose would only distract.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shop.demo.main import main
    from shop.demo.places import PLACES

    parser = argparse.ArgumentParser(prog="shop.demo", description="Plays the story of a lost reply.")
    parser.add_argument("--store", choices=PLACES, default="sqlite", help="where operations and rows are (sqlite)")
    sys.exit(main(store=parser.parse_args().store))
