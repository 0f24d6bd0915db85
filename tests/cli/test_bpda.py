"""--bpda: what is replaced from the command line, what is told of it, and what is refused."""

import pytest

LINE = "-m small_cnn -o width=4 --data digits --samples 16 -a fgsm --radius 0.1"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_results_say_what_was_replaced(fastadv, command):
    plain = fastadv(f"{command} {LINE} --json").json
    assert (plain["measured"]["bpda"], plain["config"]["bpda"]) == ({}, None)
    given = "--bpda features.2=identity --bpda features.5=torch.nn.functional:softplus"
    told = fastadv(f"{command} {LINE} --json {given}").json
    assert told["measured"]["bpda"] == {"features.2": "identity", "features.5": "softplus"}
    assert told["config"]["bpda"] == ["features.2=identity", "features.5=torch.nn.functional:softplus"]
    assert told["measured"]["clean_accuracy"] == plain["measured"]["clean_accuracy"]
    shown = " ".join(fastadv(f"{command} {LINE} --bpda features.2=identity").out.split())
    assert "BPDA: features.2 (identity)" in shown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("features.2", "expected PATTERN=identity or PATTERN=package.module:name, got 'features.2'"),
        ("features.2=straight", "expected PATTERN=identity or PATTERN=package.module:name"),
        ("=identity", "expected PATTERN=identity or PATTERN=package.module:name"),
        ("features.2=identity --bpda features.2=torch:sin", "features.2 is given twice; leave one out"),
        ("features.2=no.such:thing", "No module named 'no'; put its folder on PYTHONPATH"),
        ("features.2=torch:nothing", "put its folder on PYTHONPATH or install the package"),
        ("feature.2=identity", "did you mean 'features.2'"),
        ("features.2=torch:pi", "expected 'identity', a function or Substitute(net)"),
    ],
)
def test_what_is_refused(refused, given, says):
    refused(f"evaluate {LINE} --bpda {given}", says)
