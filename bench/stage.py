"""Run the cases of a subject of the benchmark; a failed case does not stop the others."""

import importlib
import time
import traceback
from collections.abc import Callable, Collection

from bench.session import Case, Row, Session, Skip, said


def cases_of(stage: str, session: Session) -> list[Case]:
    """List the cases of a subject, the ceilings first; on a CPU only the ops are compared with them."""
    cases: list[Case] = [*importlib.import_module(f"bench.subjects.{stage}").cases(session)]
    if stage == "ops" or (stage not in ("loop", "correctness") and not session.on_cpu):
        cases.insert(0, Case("ceilings", lambda: session.ceilings.rows()))
    return cases


def run_stage(
    stage: str,
    session: Session,
    write: Callable[[Row], None],
    skip: Collection[tuple[str, str]] = (),
    only: str = "",
    mark: Callable[[str], None] = lambda case: None,
) -> bool:
    """Run the cases of a subject that `skip` does not name and whose name holds `only`.

    Every row goes to `write`, and one row with a status after each case. False where an error has left the
    GPU unusable for this process.
    """
    kept = 0
    for case in cases_of(stage, session):
        if only not in case.name and case.name != "ceilings":
            continue
        if (stage, case.name) in skip and case.name != "ceilings":
            kept += 1
            continue
        ending: Row = {"stage": stage, "case": case.name}
        if session.left() < case.needs and not session.tiny:
            why = f"{max(0, session.left()):.0f} s of the stage's time left, {case.needs:.0f} needed"
            write(ending | {"status": "skipped", "why": why})
            continue
        mark(case.name)
        started, lost = time.monotonic(), False
        try:
            for row in case.run():
                write({"stage": stage, "case": case.name, **row})
            ending["status"] = "done"
        except Skip as error:
            ending |= {"status": "skipped", "why": str(error)}
        except Exception as error:
            traceback.print_exc()
            ending |= {"status": "failed", "why": said(error)}
            lost = session.dead()
        write(ending | {"seconds": round(time.monotonic() - started, 2)})
        if lost:
            return False
        session.clear()
    if kept:
        print(
            f"{stage}: {kept} cases were done before by the same code on this machine; --again repeats them"
        )
    return True
