"""One operation: what it used and cost, why it was let in, what corrected it, and where that is sealed."""

import asyncio

from contracts.problem_advice import ADVICE
from contracts.problems import NOT_FOUND, Problem
from contracts.web.own_api import ApiProblem, Document, Parameters, path_of, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import READERS


async def _show(visit: Visit) -> Shown:
    operation_id = visit.request.path_params["operation_id"]
    whose = {"account_id": visit.account_id}

    def ask(path: str) -> "asyncio.Task[tuple[Document, Problem | None]]":
        return asyncio.create_task(_ask(visit, path_of(path, operation_id=operation_id), whose))

    asked = (
        ask("/v1/usage-log/{operation_id}"),
        ask("/v1/decisions/{operation_id}"),
        ask("/v1/usage-log/{operation_id}/proof"),
    )
    (found, missing), (decision, no_decision), (proof, no_proof) = await asyncio.gather(*asked)
    told = {"title": f"Operation {operation_id}", "operation_id": operation_id}
    if missing is not None and (decision is None or missing.status != NOT_FOUND.status):
        # Of an operation without a check nobody knows whose it is: the page asks.
        asks = missing.status == 422 and visit.account_id is None
        wrong = {"problem": missing, "advice": ADVICE.get(missing.code, ""), "asks_account": asks}
        return View("operation.html", {**told, **wrong}, missing.status)
    account_id = (found["entry"] if found else decision)["account_id"]
    told |= {
        "account_id": account_id,
        "own": query_of({"account_id": account_id}),
        "found": found,
        "decision": decision,
        "no_decision": no_decision,
        "proof": proof,
        "no_proof": no_proof,
    }
    return View("operation.html", told)


async def _ask(visit: Visit, path: str, parameters: Parameters) -> tuple[Document, Problem | None]:
    """The answer, or why there is none. Raises ApiProblem where the visitor has to sign in, or nothing answers."""
    try:
        return (await visit.api.get(path, parameters)).json, None
    except ApiProblem as error:
        if error.problem.status in (401, 403, 503):
            raise
        return None, error.problem


PAGE = Page("/operations/{operation_id}", "Operation", _show, scopes=READERS, asks=frozenset({"account_id"}))
