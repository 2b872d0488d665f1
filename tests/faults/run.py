import sys, time, tempfile, pathlib, traceback, shutil
import pytest
from tests.faults import hospital, history, benches, plans
patch = pytest.MonkeyPatch()
hospital.put_in_place(patch)
und = {}
def live(b, seed, faults):
    f = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm"))
    h = history.History(b, f, seed, faults)
    try:
        with history.world(h):
            return h, h.live(), None
    except BaseException as e:
        return h, None, e
    finally:
        shutil.rmtree(f, ignore_errors=True)
for b in benches.BENCHES:
    und[b.name] = live(b, 0, ())[1]
import collections
bad = collections.Counter()
t0 = time.process_time()
a, z = int(sys.argv[1]), int(sys.argv[2])
for seed in range(a, z):
    b = benches.BENCHES[seed % len(benches.BENCHES)]
    u = und[b.name]
    faults = plans.planned_faults(seed, u.counts)
    h, e, err = live(b, seed, faults)
    why = None
    if err is not None: why = f"{type(err).__name__}: {str(err)[:300]}"
    elif e.results != u.results: why = "results differ"
    elif e.ledger != u.ledger: why = f"ledger differs: {len(e.ledger)} {len(u.ledger)}"
    elif e.weights != u.weights: why = f"weights differ: {len(e.weights)} {len(u.weights)}"
    elif h.again and not any(f.harm in plans.OF_DATA for f in faults): why = "again: " + "; ".join(h.again)
    if why or len(sys.argv) > 4:
        bad[str(why)[:60]] += 1
        print("SEED", seed, b.name, why)
        if True:
            for f in faults: print("    plan:", f)
            print("   ", "\n    ".join(h.told))
            if err is not None and z - a < 3:
                traceback.print_exception(err)
t = time.process_time() - t0
print(z - a, "seeds", round(t / (z - a), 3), "s each", bad)
if z - a == 1 and e is not None:
    for n in u.ledger:
        if e.ledger.get(n) != u.ledger[n]:
            print(n); print(u.ledger[n].decode()); print(e.ledger.get(n, b"").decode())
