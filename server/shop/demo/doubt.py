"""The act in which nobody can know: a card may have been charged, and an operator finds out."""

import asyncio
import shlex
import sys
from pathlib import Path

import grpc.aio
from google.protobuf.json_format import MessageToJson

from shop.demo.calls import Reply, new_key, resend, send, shown_key
from shop.demo.process import ShopProcess
from shop.demo.provider import Provider
from shop.demo.scene import PATIENCE, Scene, dollars, shown_money
from shop.demo.stage import Stage
from shop.users.v1.users_pb2 import AddCreditRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

_TILL = (sys.executable, "-m", "shop.demo.till")
_COMMAND = (sys.executable, "-m", "grpc_idempotency")
_REQUEST = AddCreditRequest(user_id="cust_789", amount=dollars(2050))


async def nobody_can_know(scene: Scene) -> None:
    """Plays it, with a server and a payment provider of its own."""
    stage = scene.stage
    stage.act("Nobody can know")
    store = f"sqlite:///{scene.folder / 'till.db'}"
    async with Provider() as provider:
        settings = {"TILL_STORE": store, "TILL_PROVIDER": provider.address}
        till = ShopProcess("till", _TILL, settings, scene.folder)
        try:
            await _play(scene, till, provider, store)
        finally:
            await till.stop()


async def _play(scene: Scene, till: ShopProcess, provider: Provider, store: str) -> None:
    stage, key = scene.stage, new_key()
    await till.start()
    stage.says("client", f"AddCredit {_REQUEST.user_id}, by card: {shown_money(_REQUEST.amount)}", shown_key(key))
    async with grpc.aio.insecure_channel(till.address) as channel:
        call = asyncio.create_task(send(UserServiceStub(channel).AddCredit, _REQUEST, key))
        await asyncio.wait_for(provider.charged(), PATIENCE)
        stage.says("till", "charges the card at a provider that knows no keys, and waits for the answer")
        stage.says("till", f"process {await till.kill()} is ended by kill -9")
        scene.got(await call)
    await till.start()
    stage.says("till", f"another process starts, on {till.address}")
    async with grpc.aio.insecure_channel(till.address) as channel:
        users = UserServiceStub(channel)
        stage.says("client", "sends the same call again, with the same key", shown_key(key))
        reply = await asyncio.wait_for(resend(users.AddCredit, _REQUEST, key), PATIENCE)
        scene.got(reply)
        stage.promise(
            "The card was not charged again: the client was told that nobody can know.",
            reply.error_info.reason == "OUTCOME_UNKNOWN" and len(provider.charges) == 1,
        )
        stage.says("operator", f"looks into the provider's book: {', '.join(provider.charges)}")
        told = User(id=_REQUEST.user_id, balance=_REQUEST.amount)
        await _resolve(stage, store, reply, told)
        stage.says("client", "sends the same call once more", shown_key(key))
        last: Reply[User] = await send(users.AddCredit, _REQUEST, key)
        scene.got(last)
        stage.promise(
            "Now it gets the answer that the operator has found out.", (last.message, last.how) == (told, "replayed")
        )


async def _resolve(stage: Stage, store: str, reply: Reply[User], told: User) -> None:
    """Runs the operator's command."""
    name = reply.error_info.metadata.get("operation", "")
    message = ("--message-json", MessageToJson(told, indent=None), "--module", User.__module__)
    arguments = ["resolve", store, name, "--completed", *message, "--reason", "charged, says the provider", "--yes"]
    shown = [f"sqlite:///{Path(one).name}" if one == store else one for one in arguments]
    stage.says("operator", f"grpc-idempotency {shlex.join(shown)}")
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        stage.broken(f"The command ended with {process.returncode}: {output.decode(errors='replace').strip()}")
