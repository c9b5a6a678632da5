"""Entries of the result file of the scaling benchmark."""


def run_of(scaling, mesh, rate, **more):
    devices = int(mesh[0]) * int(mesh[2])
    parts = {
        part: {"tokens_per_second": rate * f, "seconds": 1.0}
        for part, f in (("rollout", 1), ("update", 2), ("step", 0.5))
    }
    return {"scaling": scaling, "mesh": mesh, "devices": devices, **parts, **more}
