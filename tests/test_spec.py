"""Specs: what is meant is understood, and what is wrong is told by file, line, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench.case import Case
from hwbench.errors import RequestError
from hwbench.registry import suites
from hwbench.spec import Spec, load, load_suite
from hwbench.spec.cases import expand
from hwbench.spec.load import parse

GOOD = """\
model: {onnx: net.onnx}
data: {npz: data/rows.npz, labels: y}
environments:
  - {backend: onnxruntime, precision: [fp32, int8], threads: [1, 2]}
scenarios:
  - clean
  - {bitflip: {rate: [1e-6, 1e-5]}, patterns: 5}
"""


def read(text: str) -> Spec:
    return parse(text, "my.yaml", Path("/base"))


def refusal(text: str) -> str:
    """The one line a user sees."""
    with pytest.raises(RequestError) as caught:
        read(text)
    line = caught.value.line()
    assert "\n" not in line
    return line


def cases(entries: str) -> list[Case]:
    return expand(read(f"scenarios: {entries}").scenarios)


# What is meant.


def test_lists_expand_to_their_product():
    ids = [each.id for each in read(GOOD).expand_environments()]
    assert ids == [
        "onnxruntime-cpu-fp32-t1",
        "onnxruntime-cpu-fp32-t2",
        "onnxruntime-cpu-int8-t1",
        "onnxruntime-cpu-int8-t2",
    ]
    made = cases("[{bitflip: {target: [weights, inputs], rate: [0.1, 0.2]}}]")
    assert [case.id for case in made] == [
        "clean",
        "bitflip-weights@rate=0.1",
        "bitflip-weights@rate=0.2",
        "bitflip-inputs@rate=0.1",
        "bitflip-inputs@rate=0.2",
    ]


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "spec.yaml"
    file.write_text(GOOD)
    spec = load(file)
    assert spec.model is not None and spec.model.onnx == str(tmp_path / "sub/net.onnx")
    assert spec.data is not None and spec.data.npz == str(tmp_path / "sub/data/rows.npz")


def test_numbers_without_a_point_are_numbers():
    """YAML 1.1 reads 1e-6 as text."""
    assert [case.severity for case in expand(read(GOOD).scenarios)] == [None, 1e-6, 1e-5]


def test_clean_is_always_first_and_once():
    assert [case.id for case in cases("[{noise: {snr_db: 3}}, clean]")] == [
        "clean",
        "noise-inputs@snr_db=3",
    ]
    assert [case.id for case in cases("clean")] == ["clean"]


def test_common_options_reach_the_case():
    entry = (
        "{bitflip: {rate: 0.1}, patterns: 7, latency: true, residence: live,"
        " sites: {include: 'conv*', kinds: [weight, bias]}}"
    )
    (_, case) = cases(f"[{entry}]")
    (layer,) = case.layers
    assert (case.patterns, case.latency, layer.residence) == (7, True, "live")
    assert (layer.sites.include, layer.sites.kinds) == (("conv*",), ("weight", "bias"))
    assert case.unit == "pattern"


def test_a_stack_is_one_scenario_whose_varying_severity_counts():
    made = cases("[[{bitflip: {rate: 0.1}}, {noise: {snr_db: [20, 10]}, patterns: 3}]]")
    assert [case.id for case in made[1:]] == [
        "bitflip-weights(rate=0.1)+noise-inputs@snr_db=20",
        "bitflip-weights(rate=0.1)+noise-inputs@snr_db=10",
    ]
    assert [len(case.layers) for case in made] == [0, 2, 2]
    assert {case.patterns for case in made[1:]} == {3}
    assert {case.unit for case in made[1:]} == {"pattern"}


def test_two_severities_that_vary_in_a_stack_are_refused():
    line = refusal("scenarios: [[{bitflip: {rate: [0.1, 0.2]}}, {noise: {snr_db: [20, 10]}}]]")
    assert "several severities" in line and "my.yaml:1: scenarios[0]" in line


def test_severities_that_differ_have_ids_that_differ():
    """However many digits it takes."""
    made = cases(
        "[{bitflip: {count: [1000000, 1000001]}}, {noise: {snr_db: [0.1234567, 0.1234568]}}]"
    )
    assert len({case.id for case in made}) == 5
    assert "bitflip-weights@count=1e+06" in {case.id for case in made}


def test_scenarios_of_one_name_are_numbered_and_repetitions_dropped():
    made = cases(
        "[{noise: {snr_db: 3}}, {noise: {snr_db: 3}}, {noise: {snr_db: 3}, sites: {include: x}}]"
    )
    assert [case.id for case in made] == [
        "clean",
        "noise-inputs@snr_db=3",
        "noise-inputs-2@snr_db=3",
    ]


@pytest.mark.parametrize("name", sorted(suites()))
def test_every_suite_is_a_spec(name):
    spec = load_suite(name, {"model": {"builtin": "digits-cnn"}})
    assert len(expand(spec.scenarios)) > 1
    assert load_suite(name, {"seed": 5}).seed == 5


def test_a_suites_scenarios_can_be_taken_over():
    spec = read("scenarios: [{suite: smoke}, {noise: {snr_db: 33}}]")
    assert [case.id for case in expand(spec.scenarios)][-1] == "noise-inputs@snr_db=33"
    assert len(expand(spec.scenarios)) == len(expand(load_suite("smoke", {}).scenarios)) + 1


def test_latency_can_be_off():
    assert read("latency: false").latency is None
    assert read("latency: {processes: 9}").latency.processes == 9


def test_a_resolved_spec_reads_back():
    import yaml

    spec = read(GOOD)
    content = yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True))
    assert Spec.model_validate(yaml.safe_load(content)) == spec


# What is wrong.


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "environments:",
            "enviroments:",
            "my.yaml:3: enviroments: unknown key 'enviroments'. Hint: did you mean 'environments'?",
        ),
        (
            "labels:",
            "lables:",
            "my.yaml:2: data.lables: unknown key 'lables'. Hint: did you mean 'labels'?",
        ),
        (
            "{onnx:",
            "{onxx:",
            "my.yaml:1: model.onxx: unknown key 'onxx'. Hint: did you mean 'onnx'?",
        ),
        (
            "precision:",
            "precission:",
            "my.yaml:4: environments[0].precission: unknown key 'precission'."
            " Hint: did you mean 'precision'?",
        ),
        ("[1, 2]", "[1, 0]", "my.yaml:4: environments[0].threads"),
        ("[1, 2]", "many", "my.yaml:4: environments[0].threads"),
        (
            "{rate:",
            "{ratee:",
            "my.yaml:7: scenarios[1].bitflip.ratee: unknown key 'ratee'."
            " Hint: did you mean 'rate'?",
        ),
        (
            "bitflip:",
            "bitflop:",
            "my.yaml:7: scenarios[1].bitflop: unknown scenario 'bitflop'."
            " Hint: did you mean 'bitflip'?",
        ),
        (
            "1e-5]",
            "-1e-5]",
            "my.yaml:7: scenarios[1].bitflip: rate is a probability per bit, 0 to 1, not -1e-05.",
        ),
        ("1e-5]", "1.5]", "0 to 1, not 1.5"),
        ("1e-5]", "often]", "my.yaml:7: scenarios[1].bitflip.rate"),
        (
            "1e-5]}",
            "1e-5], count: 3}",
            "my.yaml:7: scenarios[1].bitflip: give exactly one of rate, count.",
        ),
        (
            "rate: [1e-6, 1e-5]",
            "target: weights",
            "give exactly one of rate, count. Hint: for example {bitflip:",
        ),
        ("[1e-6, 1e-5]", "[]", "my.yaml:7: scenarios[1].bitflip.rate: an empty list."),
        (
            "patterns: 5",
            "patterns: 0",
            "my.yaml:7: scenarios[1].patterns: a whole number of at least 1, not 0.",
        ),
        ("patterns: 5", "patterns: 2.5", "scenarios[1].patterns: a whole number"),
        ("patterns: 5", "patern: 5", "one scenario per entry, found bitflip and patern."),
        (
            "patterns: 5",
            "residence: alive",
            "my.yaml:7: scenarios[1].residence: unknown residence 'alive'.",
        ),
        (
            "patterns: 5",
            "sites: {includes: a}",
            "my.yaml:7: scenarios[1].sites.includes: unknown key 'includes'."
            " Hint: did you mean 'include'?",
        ),
        (
            "patterns: 5",
            "sites: {kinds: wieght}",
            "my.yaml:7: scenarios[1].sites.kinds: unknown kind 'wieght'."
            " Hint: did you mean 'weight'?",
        ),
        ("patterns: 5", "sites: conv", "my.yaml:7: scenarios[1].sites: a mapping"),
        ("patterns: 5", "name: clean", "my.yaml:7: scenarios[1].name"),
        ("patterns: 5", "latency: 1", "my.yaml:7: scenarios[1].latency: true or false."),
        (
            "- clean",
            "- {suite: smok}",
            "my.yaml:6: scenarios[0].suite: unknown suite 'smok'. Hint: did you mean 'smoke'?",
        ),
        ("- clean", "- 5", "my.yaml:6: scenarios[0]: a scenario is a name or a mapping."),
        ("labels: y", "labels: y, limit: 0", "my.yaml:2: data.limit"),
        (
            "labels: y",
            "labels: y, builtin: digits",
            "my.yaml:2: data: give exactly one of npz, images, table, dataset, python, builtin",
        ),
        ("labels: y", "preprocess: {scal: 2}", "my.yaml:2: data.preprocess"),
        ("labels: y", "preprocess: {std: 0}", "std divides: it cannot be 0"),
        (
            "{onnx: net.onnx}",
            "{}",
            "my.yaml:1: model: give exactly one of onnx, torch, pt2, library, builtin",
        ),
        ("{onnx: net.onnx}", "{onnx: a, weights: b}", "weights belong to a torch factory"),
        ("{onnx: net.onnx}", "net.onnx", "my.yaml:1: model"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_remedy(old, new, told):
    assert GOOD.count(old) == 1
    assert told in refusal(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "my.yaml:1: not valid YAML"),
        ("model:\n  - {a: b\n", "not valid YAML"),
        ("\tmodel: x", "my.yaml:1: not valid YAML"),
        ("", "a spec is a mapping"),
        ("- clean", "a spec is a mapping"),
        ("just text", "a spec is a mapping"),
        ("a: &a [*a]", "my.yaml"),
        ("name: 2024-13-45", "my.yaml"),
        ("1: 2", "my.yaml:1"),
        ("name: !!python/object:os.system x", "my.yaml:1: not valid YAML"),
        ("a: b\x00c", "my.yaml"),
        ("seed: -1", "my.yaml:1: seed"),
        ("seed: 1\nseed: 2", "my.yaml:2: seed: given twice"),
        ("deadline_s: 0", "my.yaml:1: deadline_s"),
        ("model: {onnx: a}\nmodels: {b: {onnx: b}}", "give model or models, not both"),
    ],
)
def test_text_that_is_no_spec(text, told):
    assert told in refusal(text)


def test_deep_nesting_is_told():
    assert "my.yaml" in refusal("scenarios: " + "[" * 3000 + "]" * 3000)


def test_lines_hold_behind_a_suite():
    text = "scenarios:\n  - {suite: smoke}\n  - clean\n  - {bitflip: {rte: 1}}\n"
    assert "my.yaml:4: scenarios[2].bitflip.rte: unknown key 'rte'" in refusal(text)


def test_environments_that_differ_need_names_that_differ():
    text = "environments: [{backend: torch, options: {x: 1}}, {backend: torch, options: {x: 2}}]"
    with pytest.raises(RequestError, match=r"environments: .*'torch-cpu-fp32-t1'.*label"):
        read(text).expand_environments()
    twice = "environments: [{backend: torch}, {backend: [torch, openvino]}]"
    ids = [each.backend for each in read(twice).expand_environments()]
    assert ids == ["torch", "openvino"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match=r"none.yaml: no such file\. Hint: .*smoke"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RequestError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(RequestError, match="cannot be read as text"):
        load(tmp_path / "binary.yaml")
    with pytest.raises(RequestError, match="did you mean 'nightly'"):
        load_suite("nightley", {})
