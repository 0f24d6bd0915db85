"""`fastadv evaluate` for RobustBench: its suite, entries, and adversarial images that others made."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import DOUBTFUL, NOTHING_KEPT, ending, print_results
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import Panel
from fastadv.cli._shared import Attacked, Images, Network, Search, load_data
from fastadv.data import is_named
from fastadv.engine.replaced import in_words
from fastadv.evaluation import Table, corruptions, external
from fastadv.evaluation import evaluate as measure
from fastadv.evaluation.robustbench import CORRUPTED, RADII, SAID, TEXTS, entry, shortage
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.runs.files import write_text
from fastadv.text import percent

SHOWN = 10  # numbers of images outside
STANDARD = {"version": "standard", "eot": 1}  # of autoattack, for an entry
TABLES = ", ".join(
    [*(f"--data {data} --norm {norm}" for data, norm in RADII), *(f"--data {data}" for data in CORRUPTED)]
)


class RobustBench(Panel, title="RobustBench"):
    suite: Literal["robustbench"] | None = o.option(
        None,
        "Evaluate as this benchmark does: AutoAttack standard at its radius on the whole test set, "
        "or all corruptions (--data cifar10c).",
    )
    robustbench: Path | None = o.written(
        None,
        "Write the result of -a autoattack on the whole test set, or that under corruptions, as an entry of "
        "RobustBench here (json).",
    )
    about: list[str] | None = o.option(
        None,
        f"A field of that entry: {', '.join(SAID)}. May be repeated; null where not given.",
        metavar="KEY=VALUE",
    )

    judge: Path | None = o.option(
        None,
        "Run no attack, but judge adversarial images that others made: a torch file with one tensor in the "
        "order of the data, as RobustBench's external evaluations are.",
        exists=True, dir_okay=False, metavar="FILE",
    )  # fmt: skip

    @property
    def said(self) -> dict[str, Any]:
        """The fields of the entry that --about names."""
        if self.about and self.robustbench is None:
            o.refuse("--about says more about an entry: give --robustbench too.")
        return parse_about(self.about or ())

    def lacks(self, images: Images, count: int) -> str:
        """Return what a result of the suite on `count` images is not; an entry on too few is refused."""
        text = shortage(images.data.partition(":")[0], count)
        if text and self.robustbench is not None:
            o.refuse(f"--robustbench: {text}; --data-dir names the folder that holds them.")
        return f"not a result of RobustBench: {text}" if text and self.suite is not None else ""

    def on_corruptions(self, images: Images) -> bool:
        return self.suite is not None and images.data.partition(":")[0] in CORRUPTED

    def attacks(
        self, texts: list[str] | None, options: AttackOptions, images: Images
    ) -> tuple[list[str], AttackOptions]:
        """Return which attacks to run with which options: those given, or those of the suite."""
        if self.suite is None:
            return texts or ["fgsm", "pgd"], options
        self._check_images(images)
        if texts:
            o.refuse("--suite robustbench runs autoattack: leave out --attack.")
        for name in options.given.keys() - {"norm"}:
            o.refuse(f"--suite robustbench sets the budget: leave out --{name.replace('_', '-')}.")
        data, norm = images.data.partition(":")[0], options.norm or "linf"
        if (data, norm) not in RADII:
            o.refuse(f"--suite robustbench has no table for {data} in {norm}; it has {TABLES}.")
        if data == "imagenet" and "preprocessing=" not in images.data:
            o.refuse(
                "--suite robustbench: each model of ImageNet names its preprocessing: give "
                "--data imagenet:preprocessing=Res256Crop224, or another one."
            )
        return ["autoattack"], replace(options, norm=norm, radius=RADII[data, norm])

    def _check_images(self, images: Images) -> None:
        o.refuse_given("is set by --suite robustbench; leave it out.", split=images.split)
        if "ids=" in images.data:
            o.refuse("--suite robustbench has its own list of images: leave out ids.")

    def run_corruptions(
        self, texts: list[str] | None, options: AttackOptions, results: Panel, network: Network,
        images: Images, machine: Search,
    ) -> Iterator[Any]:  # fmt: skip
        """Measure a model clean and under all corruptions, as `evaluate` does under attacks."""
        self._check_images(images)
        refuse_results(
            "has no effect on corruptions; leave it out.", results, attack=texts or None, judge=self.judge,
            **options.given,
        )  # fmt: skip
        if ":" in images.data:
            o.refuse("--suite robustbench takes all corruptions and severities: name --data cifar10c alone.")
        if self.robustbench is not None:
            _check_whole(images)
        said, clean = self.said, CORRUPTED[images.data]
        with interruptible(NOTHING_KEPT):
            dataset = load_data(clean, "test", images.data_dir, images.samples)
            one = f"{images.data}:corruption=fog,severity=1"
            corrupted = load_data(one, "test", images.data_dir, images.samples)
            lacks = self.lacks(replace(images, data=clean), len(dataset)) or self.lacks(
                images, len(corrupted)
            )
            net = machine.twin(network.load(dataset, machine.place(), machine.seed))
            with progress("corruptions") as tick:
                accuracy = measure(net, dataset, batch_size=machine.batch_size).clean_accuracy
                found = corruptions(
                    net, images.data, images.data_dir, batch_size=machine.batch_size, limit=images.samples,
                    progress=tick,
                )  # fmt: skip
        if processes.rank():
            return
        if self.robustbench is not None:
            about = _footnoted(said, dataset.note)
            _write(self.robustbench, entry(clean, network.model, accuracy, found.mean, about=about))
        config = {**network.config, "suite": self.suite, "data": images.data}
        measured = found.to_dict()
        measured["lacks"] = lacks
        yield card("evaluation", config, clean_accuracy=accuracy, samples=images.samples, **measured)
        cells = [["corruption", *map(str, range(1, 6))]]
        cells += [[name, *map(percent, shares)] for name, shares in measured["corruptions"].items()]
        print_table(f"{network.model} on {images.data}: accuracy at each severity", cells)
        say(f"clean accuracy {percent(accuracy)}; over all corruptions {percent(found.mean)}")
        for text in filter(None, (lacks, dataset.note)):
            say(text)
        say_where({"entry": self.robustbench})


def judge(
    path: Path, texts: list[str] | None, options: AttackOptions, results: Any, benchmark: RobustBench,
    network: Attacked, images: Images, machine: Search,
) -> Iterator[Any]:  # fmt: skip
    """Judge the images of a file; exit code 3 with --strict where one is outside the threat."""
    named = benchmark.attacks(texts, options, images)[1]
    other = {name: value for name, value in options.given.items() if name not in ("norm", "radius")}
    refuse_results(
        "has no effect with --judge; leave it out.", replace(results, strict=False), attack=texts or None,
        robustbench=benchmark.robustbench, about=benchmark.about, bpda=network.bpda,
        precision=machine.precision, **other,
    )  # fmt: skip
    if named.radius is None:
        o.refuse("--judge needs the threat: give --radius, or --suite robustbench.")
    if not isinstance(machine.batch_size, int):
        o.refuse("--judge: give --batch-size as a number.")
    threat = o.make_threat(named.norm or "linf", named.radius)
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = network.load(dataset, machine.place(), machine.seed)
        found = external(net, path, dataset, threat, batch_size=machine.batch_size)
    outside, count = found.outside.tolist(), found.table.n
    lacks = benchmark.lacks(images, count)
    measured = {
        "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": found.robust_accuracy,
        "images": count,
        "outside": outside,
        "largest_distance": found.distances.max().item(),
        "lacks": lacks,
    }
    config = {
        **network.config,
        "external": str(path),
        "threat": threat.describe(),
        "data": dataset.describe(),
    }
    with ending(DOUBTFUL if results.strict and outside else 0):
        yield card("external evaluation", config, **measured)
        print_results(found.table, network.model, dataset)
        say(f"the farthest lies {measured['largest_distance']:.7g} from its clean image, in {threat.symbol}")
        shown = ", ".join(map(str, outside[:SHOWN])) + (" ..." if len(outside) > SHOWN else "")
        say(f"{len(outside)} outside the ball or the box break nothing: {shown}" if outside else
            "all are in the ball and the box")  # fmt: skip
        if lacks:
            say(lacks)


def refuse_results(why: str, results: Panel, **more: object) -> None:
    """Refuse whatever of `results` is not as by default, and more options that are given."""
    none = vars(type(results)())
    given = {name: value for name, value in vars(results).items() if value != none[name]}
    if not given.pop("indicators", True):
        given["no_indicators"] = True
    o.refuse_given(why, **more, **given)


def parse_about(parts: Iterable[str]) -> dict[str, Any]:
    """Parse the fields that KEY=VALUE name. Wrong usage for other names and kinds of values."""
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals or key not in SAID:
            o.refuse(f"--about: expected KEY=VALUE with one of {', '.join(SAID)}, got {part!r}.")
        if key in values:
            o.refuse(f"--about: {key} is given twice; leave one out.")
        if key == "additional_data" and text not in ("true", "false"):
            o.refuse(f"--about: expected {key}=true or {key}=false, got {text!r}.")
        if key == "number_forward_passes" and not (text.isdecimal() and int(text)):
            o.refuse(f"--about: expected {key} to be a whole number from 1, got {text!r}.")
        values[key] = text if key in TEXTS else json.loads(text)
    return values


def check_entry(named: Mapping[str, NamedAttack], images: Images) -> NamedAttack:
    """Find the attack whose result is the entry. Wrong usage for what RobustBench does not list."""
    found = [attack for attack in named.values() if attack.name == "autoattack"]
    if len(found) != 1:
        o.refuse("--robustbench takes the result of autoattack: name it once, -a autoattack.")
    for key, value in STANDARD.items():
        if (given := found[0].config.get(key, value)) != value:
            o.refuse(f"--robustbench needs {key}={value} of autoattack, got {given}.")
    if found[0].norm not in ("linf", "l2"):
        o.refuse(f"--robustbench lists linf and l2, not {found[0].norm}.")
    if not is_named(images.data):
        o.refuse("--robustbench lists test sets, and no constructed ones.")
    if images.split not in (None, "test"):
        o.refuse(f"--robustbench needs the test set: leave out --split {images.split}.")
    if "ids=" in images.data:
        o.refuse("--robustbench needs the images that RobustBench names: leave out ids.")
    _check_whole(images)
    return found[0]


def _check_whole(images: Images) -> None:
    if images.samples is not None:
        o.refuse("--robustbench needs the test set whole: leave out --samples.")


def write_entry(
    path: Path, table: Table, attack: NamedAttack, data: str, model: str, about: Mapping[str, Any],
    note: str | None,
) -> None:  # fmt: skip
    """Write the entry of `table`; its footnote names replaced gradients, and the `note` of the data set."""
    row, threat = table[attack.label], o.make_threat(attack.norm, attack.radius)
    accuracies = table.clean_accuracy, row.robust_accuracy
    about = _footnoted(about, in_words(table.replaced) if table.replaced else None, note)
    dataset = data.partition(":")[0]
    _write(path, entry(dataset, model, *accuracies, threat, unreliable=bool(row.flags), about=about))


def _footnoted(about: Mapping[str, Any], *notes: str | None) -> dict[str, Any]:
    """Return the fields with more in the footnote: what a reader must know of the accuracies."""
    more = "; ".join(filter(None, (about.get("footnote"), *notes)))
    return {**about, **({"footnote": more} if more else {})}


def _write(path: Path, made: dict[str, Any]) -> None:
    write_text(path, json.dumps(made, indent=2) + "\n")
