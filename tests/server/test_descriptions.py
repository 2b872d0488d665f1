"""A site that computes with another torch or device than at the run before is said to, by name."""

from __future__ import annotations

from common.protocol.messages import Description
from server.descriptions import changed_machines


def description(torch: str, device: str = "cpu") -> Description:
    return Description.model_validate(
        {
            "study": "0" * 64,
            "site": "A",
            "patients_found": 1,
            "prepared": 1,
            "fingerprint": "1" * 64,
            "torch": torch,
            "device": device,
            "precision": "float32",
        }
    )


def test_each_site_whose_results_will_be_others_is_named() -> None:
    before = {"A": description("2.13.0"), "B": description("2.13.0"), "C": description("2.13.0")}
    now = {"A": description("2.14.1"), "B": description("2.13.0"), "C": description("2.13.0", "cuda")}
    earlier = "torch 2.13.0 on cpu in float32"
    said = f"Site {{}} computes with {{}} in float32, and did with {earlier} before; its stages are run again."
    assert changed_machines(before, now) == [
        said.format("A", "torch 2.14.1 on cpu"),
        said.format("C", "torch 2.13.0 on cuda"),
    ]
    assert changed_machines({}, now) == changed_machines(now, now) == []
