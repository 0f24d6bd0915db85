"""What the stages of the pipeline measure and tell, against cases whose answers are known."""

import json
from dataclasses import replace
from pathlib import Path

from papers.ilyas2019 import plan, report


def test_the_page_has_each_figure_in_its_column_and_says_what_was_measured_on_what():
    """In ilyas2019.md, checked by hand; the paper's figures are those of its table 1 and figures 2 and 3."""
    nets = {}
    paper = replace(plan.SCALES["paper"], attack_steps=50, push_steps=9)
    for place, name in enumerate(paper.nets):
        clean, *shares = (share - place / 100 for share in (0.9, 0.5, 0.25))
        robust = dict(zip(("PGD L2 0.25", "PGD L2 0.5"), shares, strict=True))
        nets[name] = {"clean": clean, "robust": robust, "tested": 5, "flags": []}
    card = {
        "samples": 7, "kept_label": 0.1, "fooling_rate": 0.9, "objective_before": 3.0, "objective_after": 2.0,
        "distance_mean": 0.25, "distance_max": 0.5,
    }  # fmt: skip
    linear, net = {"D_det": {"true": 0.2, "next": 0.3}}, {"D_det": {"true": 0.4, "next": 0.5}}
    point = {"architecture": "a", "accuracy": 0.1, "transfer": 0.2, "clean": 0.3, "attacked": 4}
    measured = {
        "evaluate": {"nets": nets, "figures": {"all nets": "nets.png"}},
        "sets": dict.fromkeys(paper.sets, card),
        "controls": {
            "fooling": {"D_rand": {"source": {"label": 0.8, "true": 0.1}}},
            "leakage": {"features": 3, "linear": linear, "net": net},
            "early": {"epochs": 2, "early": 0.125, "images": 11, "taught": 0.375},
        },
        "transfer": {"points": [point], "correlation": 0.75, "interval": [0.5, 1.0]},
    }
    result = {
        "config": {
            **paper.as_json(),
            "train": {"samples": 60, "name": "some", "note": ""}, "test": {"samples": 20},
        },
        "measured": {**measured, "seconds": {"sets: D_rand": 1061.0, "controls": 61.0}, "left": ["transfer"]},
        "machine": {"gpu": None, "cpu": "a processor", "torch": "2.13"}, "date": "today",
    }  # fmt: skip
    assert report.markdown(result) == (Path(__file__).parent / "ilyas2019.md").read_text()
    # read again from results.json, where names are in alphabetical order
    again = json.loads(json.dumps(measured, sort_keys=True))
    assert report.nets(again["evaluate"]) == report.nets(measured["evaluate"])
    assert report.sets(again["sets"]) == report.sets(measured["sets"])
