"""Seals as they are asked for: checkpoints, proofs, and the script that checks them without our code."""

import copy
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client as Nats

from contracts.subjects import SEALS
from ledger_service.domain.checkpoints import SigningKey, VerifierKey, notes_in, open_note
from tests.builders import ABSENT, Body, check, completed, failed, new_id, requested
from tests.conftest import StartLedger
from tests.servers import WAIT_SECONDS, Ledger, eventually

VERIFY = Path(__file__).parents[2] / "deploy" / "verify_proof.py"


@pytest.fixture
async def sealed(start_ledger: StartLedger, tmp_path: Path) -> Ledger:
    return await start_ledger(
        seals_key_file=tmp_path / "seals" / "key.pem",
        seals_file=tmp_path / "seals" / "checkpoints",
        seals_interval_seconds=0.05,
    )


async def key_of(ledger: Ledger) -> str:
    return str((await ledger.http.get("/v1/seals/key")).json()["key"])


async def proof_of(ledger: Ledger, event: Body, **query: Any) -> Body:
    """Once it is sealed."""
    data = event["data"]
    url = f"/v1/usage-log/{data['operation_id']}/proof"
    query = {"account_id": data["account_id"], **query}
    found: Body = {}

    async def is_sealed() -> bool:
        response = await ledger.http.get(url, params={name: one for name, one in query.items() if one is not ABSENT})
        found.update(response.json())
        if response.status_code == 409:
            assert response.headers["retry-after"] == "10"
            assert found.pop("code") == "not_sealed_yet"
        return response.status_code == 200

    await eventually(is_sealed, "the operation is sealed")
    return {name: found[name] for name in ("row", "leaf_index", "leaf_hash", "path", "checkpoint")}


def verify(key: str, proof: Body, folder: Path) -> tuple[bool, str]:
    """What the stand-alone script says, run on its own, away from our code."""
    file = folder / "proof.json"
    file.write_text(json.dumps(proof))
    done = subprocess.run([sys.executable, "-I", VERIFY, key, file], capture_output=True, text=True, cwd=folder)
    assert (done.returncode == 0) == done.stdout.startswith("OK: "), done
    assert done.returncode == 0 or done.stderr.startswith("REFUSED: "), done
    return done.returncode == 0, done.stdout + done.stderr


def verify_here(key: str, proof: Body, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """The same without a process of its own, for many proofs."""
    file = folder / "proof.json"
    file.write_text(json.dumps(proof))
    monkeypatch.setattr(sys, "argv", [str(VERIFY), key, str(file)])
    try:
        runpy.run_path(str(VERIFY), run_name="__main__")
    except SystemExit as refusal:
        return not str(refusal).startswith("REFUSED: "), str(refusal)
    return True, ""


async def test_an_operation_is_proven_to_whoever_has_the_public_key(sealed: Ledger, tmp_path: Path) -> None:
    metadata = {"prompt": "ümläut \U0001f98a", "nested": {"a": [1, 2.50, None]}}
    billed = completed(metadata=metadata, sourcesequence=7, endpoint="/x")
    unbilled = failed()
    await sealed.send(requested(), billed, unbilled)
    for event in (billed, unbilled):
        proof = await proof_of(sealed, event)
        assert json.loads(proof["row"]["body"]) == event
        assert proof["row"]["source_sequence"] == event.get("sourcesequence")
        accepted, said = verify(await key_of(sealed), proof, tmp_path)
        assert accepted, said
        assert event["data"]["operation_id"] in said


async def test_the_script_is_short_and_has_none_of_our_code() -> None:
    text = VERIFY.read_text()
    assert len(text.splitlines()) < 100
    assert not any(word in text for word in ("import contracts", "from contracts", "ledger_service", "image_service"))


def _other(value: Any) -> Any:
    """Another value of the same kind, as near as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if value is None:
        return 1
    text = str(value)
    if text.endswith("Z"):
        return text[:-2] + ("1" if text[-2] != "1" else "2") + "Z"
    last = text[-1]
    return text[:-1] + ("1" if last != "1" else "2")


def _tamperings(proof: Body) -> dict[str, Callable[[Body], None]]:
    """Every single thing that can be changed in a proof."""
    found: dict[str, Callable[[Body], None]] = {}

    def change(name: str, where: Callable[[Body], Any], at: Any, to: Any = None) -> None:
        def tamper(body: Body) -> None:
            place = where(body)
            place[at] = _other(place[at]) if to is None else to

        found[name] = tamper

    for field in proof["row"]:
        change(f"row.{field}", lambda body: body["row"], field)
    change("row.operation_id of nobody", lambda body: body["row"], "operation_id", new_id())
    change("row.source_sequence invented", lambda body: body["row"], "source_sequence", 0)
    change("row.body with a space", lambda body: body["row"], "body", proof["row"]["body"] + " ")
    change("leaf_index", lambda body: body, "leaf_index")
    change("leaf_index below 0", lambda body: body, "leaf_index", -1)
    for place, step in enumerate(proof["path"]):
        change(f"path[{place}]", lambda body: body["path"], place, _flipped(step))
    change("path without its end", lambda body: body, "path", proof["path"][:-1])
    change("path with more", lambda body: body, "path", [*proof["path"], proof["leaf_hash"]])
    change("leaf_hash", lambda body: body, "leaf_hash", _flipped(proof["leaf_hash"]))
    seal = proof["checkpoint"]
    lines = seal["note"].split("\n")
    for number, line in enumerate(lines):
        if line:
            changed = [*lines[:number], _flipped(line), *lines[number + 1 :]]
            change(f"note line {number}", lambda body: body["checkpoint"], "note", "\n".join(changed))
    signature = lines[-2].rpartition(" ")[2]
    change(
        "signature", lambda body: body["checkpoint"], "note", seal["note"].replace(signature, _flipped(signature, 20))
    )
    change("no signature", lambda body: body["checkpoint"], "note", "\n".join(lines[:-2]) + "\n")
    change("size beside the note", lambda body: body["checkpoint"], "size")
    change("root beside the note", lambda body: body["checkpoint"], "root", _flipped(seal["root"]))
    change("key beside the note", lambda body: body["checkpoint"], "key", _flipped(seal["key"]))
    return found


def _flipped(text: str, at: int = 0) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


async def test_the_script_refuses_every_single_tampering(
    sealed: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = completed(sourcesequence=3)
    # One by one: those of a batch are in the log by their ids, in any order, and the last of nine has a path of one.
    for batch in ([completed() for _ in range(5)], [event], [completed() for _ in range(3)]):
        await sealed.send(*batch)

    async def sealed_with_those_that_follow() -> Body | None:
        proof = await proof_of(sealed, event)
        return proof if len(proof["path"]) >= 3 else None

    await eventually(sealed_with_those_that_follow, "the three that follow it are sealed, too")
    proof = await proof_of(sealed, event)
    key = await key_of(sealed)
    assert verify_here(key, proof, tmp_path, monkeypatch) == (True, "")

    forgeries = []
    for name, tamper in _tamperings(proof).items():
        forged = copy.deepcopy(proof)
        tamper(forged)
        assert forged != proof, name
        forgeries.append((name, forged, key))
    other = SigningKey("usage-ledger", Ed25519PrivateKey.generate())
    text = proof["checkpoint"]["note"].partition("\n\n")[0] + "\n"
    resigned = {**proof, "checkpoint": {**proof["checkpoint"], "note": other.sign(text), "key": str(other.verifier)}}
    forgeries.append(("signed by another key", resigned, key))
    forgeries.append(("checked with another key", proof, str(other.verifier)))
    forgeries.append(("a key that was copied wrongly", proof, _flipped(key, 14)))
    assert len(forgeries) > 35
    assert [name for name, forged, given in forgeries if verify_here(given, forged, tmp_path, monkeypatch)[0]] == []
    assert verify_here(str(other.verifier), resigned, tmp_path, monkeypatch)[0], "whoever trusts that key believes it"
    for name, forged, given in forgeries[::9]:
        assert not verify(given, forged, tmp_path)[0], name


async def test_checkpoints_go_on_from_each_other(
    sealed: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, events = [], [completed() for _ in range(4)]
    for event in events:
        await sealed.send(event, completed())
        sizes.append((await proof_of(sealed, event))["checkpoint"]["size"])
    key = await key_of(sealed)
    for first, second in ((sizes[0], sizes[1]), (sizes[0], sizes[3]), (sizes[1], sizes[3])):
        proof = (await sealed.http.get("/v1/seals:consistency", params={"from": first, "to": second})).json()
        assert (proof["first"]["size"], proof["second"]["size"]) == (first, second)
        accepted, said = verify(key, proof, tmp_path)
        assert accepted, said
        swapped = {**proof, "first": proof["second"], "second": proof["first"]}
        forged = [{**proof, "path": proof["path"][1:]}, swapped]
        forged += [{**proof, "path": [_flipped(one) if n == place else one for n, one in enumerate(proof["path"])]}
                   for place in range(len(proof["path"]))]  # fmt: skip
        assert [one for one in forged if verify_here(key, one, tmp_path, monkeypatch)[0]] == []

    older = await proof_of(sealed, events[0], size=sizes[2])
    assert older["checkpoint"]["size"] == sizes[2]
    assert verify(key, older, tmp_path)[0]
    listed = (await sealed.http.get("/v1/seals", params={"limit": 2})).json()
    assert listed["items"][0]["size"] == sizes[-1]
    rest = (await sealed.http.get("/v1/seals", params={"before": listed["next_before"], "limit": 1000})).json()
    assert rest["next_before"] is None
    everything = [*listed["items"], *rest["items"]]
    assert {one["size"] for one in everything} >= set(sizes)
    assert (await sealed.http.get(f"/v1/seals/{sizes[0]}")).json() in everything


async def test_checkpoints_are_published_to_the_stream_and_the_file(
    sealed: Ledger, nats_client: Nats, tmp_path: Path
) -> None:
    subscription = await nats_client.jetstream().subscribe(SEALS, ordered_consumer=True)
    for _ in range(3):
        event = completed()
        await sealed.send(event)
        await proof_of(sealed, event)
    listed = (await sealed.http.get("/v1/seals")).json()["items"][::-1]
    published = [(await subscription.next_msg(timeout=WAIT_SECONDS)).data.decode() for _ in listed]
    assert published == [one["note"] for one in listed]
    file = tmp_path / "seals" / "checkpoints"
    await eventually(lambda: len(list(notes_in(file.read_text()))) == len(listed), "the file has them all")
    assert list(notes_in(file.read_text())) == published
    keys = [VerifierKey.parse(await key_of(sealed))]
    chain = [open_note(note, keys).checkpoint for note in published]
    assert [one.previous for one in chain] == [None, *(one.digest for one in chain[:-1])]
    assert (tmp_path / "seals" / "key.pem").stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_proven_is_said_plainly(sealed: Ledger) -> None:
    await sealed.set_up()
    asked, unasked = check(), completed()
    await sealed.check(asked)
    outcome = completed(asked)
    twice = completed(operation_id=asked["operation_id"], account_id="other")
    await sealed.send(outcome, unasked, twice)
    assert (await proof_of(sealed, outcome, account_id=ABSENT))["row"]["event_id"] == outcome["id"]
    proof = await proof_of(sealed, twice)
    assert proof["row"]["account_id"] == "other"

    async def problem(url: str, **query: Any) -> tuple[int, str, str]:
        response = await sealed.http.get(url, params=query)
        body = response.json()
        return response.status_code, body["code"], body["errors"][0]["field"] if body["errors"] else ""

    url = f"/v1/usage-log/{unasked['data']['operation_id']}/proof"
    assert await problem(url) == (422, "invalid_request", "query.account_id")
    assert await problem(f"/v1/usage-log/{new_id()}/proof", account_id="acme") == (404, "not_found", "")
    assert await problem(url, account_id="acme", size=10**6) == (404, "not_found", "")
    assert await problem("/v1/usage-log/nonsense/proof") == (422, "invalid_request", "path.operation_id")
    assert await problem("/v1/seals/0") == (422, "invalid_request", "path.size")
    assert await problem("/v1/seals/1000000") == (404, "not_found", "")
    assert await problem("/v1/seals:consistency", **{"from": 2, "to": 2}) == (422, "invalid_request", "query.to")
    assert await problem("/v1/seals:consistency", **{"from": 1}) == (422, "invalid_request", "query.to")


async def test_a_row_that_was_changed_is_not_proven(
    sealed: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    event = completed()
    await sealed.send(completed(), event)
    await proof_of(sealed, event)
    await database.execute("update event_log set source = 'forged' where event_id = $1", event["id"])
    response = await sealed.http.get(
        f"/v1/usage-log/{event['data']['operation_id']}/proof", params={"account_id": "acme"}
    )
    assert (response.status_code, response.json()["code"]) == (409, "seal_mismatch")


async def test_a_ledger_without_a_key_seals_nothing(ledger: Ledger) -> None:
    for url in ("/v1/seals", "/v1/seals/key", "/v1/seals/1", f"/v1/usage-log/{new_id()}/proof?account_id=acme"):
        response = await ledger.http.get(url)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert "LEDGER_SEALS_KEY_FILE" in response.json()["detail"]


async def test_seals_that_diverged_are_a_metric(start_ledger: StartLedger, tmp_path: Path) -> None:
    foreign = tmp_path / "checkpoints"
    foreign.write_text("somebody's notes\n")
    settings = {"seals_key_file": tmp_path / "key.pem", "seals_interval_seconds": 0.1}
    ledger = await start_ledger(**settings, seals_file=foreign)

    async def diverged(wanted: str) -> bool:
        return f"\nledger_seals_diverged {wanted}\n" in (await ledger.http.get("/metrics")).text

    await eventually(lambda: diverged("1.0"), "it is told that nothing is sealed")
    foreign.unlink()
    await eventually(lambda: diverged("0.0"), "it is over")
