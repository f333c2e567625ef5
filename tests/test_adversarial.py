"""Attacks: within their budget, the same bytes everywhere, and margins that bound what is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwbench import engine
from hwbench.backend import ModelSource, TensorSpec
from hwbench.case import Case, Layer
from hwbench.errors import RequestError, Unsupported
from hwbench.execute import Stop
from hwbench.plan import make
from hwbench.prepared import Prepared, folder_of, load, located, save
from hwbench.scenario import Source
from hwbench.seeds import Key
from hwbench.spec import Spec
from hwbench.spec.cases import expand
from hwbench_scenarios import adversarial
from hwbench_scenarios.adversarial import Clever, Fgsm, HopSkipJump, Pgd, norms

KEY = Key.of_pattern(7, {"name": "x"}, 0)
X = TensorSpec("x", (None, 6), "float32")
CLASSES, DIM = 3, 6

art = pytest.mark.skipif(
    Pgd(eps=1.0).requires().status == "unsupported", reason="ART is not installed"
)


def linear_factory():
    """A linear classifier with fixed weights, whose margins are known exactly."""
    from torch import nn, tensor

    module = nn.Linear(DIM, CLASSES)
    weight, bias = parameters()
    module.load_state_dict({"weight": tensor(weight), "bias": tensor(bias)})
    return module


def parameters():
    rng = np.random.default_rng(11)
    draw = rng.normal(size=(CLASSES, DIM + 1)).astype(np.float32)
    return draw[:, :DIM].copy(), draw[:, DIM].copy()


def exact_margins(x, order):
    """Distance to the nearest decision boundary of the linear classifier, in the given norm."""
    weight, bias = (each.astype(float) for each in parameters())
    dual = {np.inf: 1, 2: 2, 1: np.inf}[order]
    logits = x @ weight.T + bias
    best = logits.argmax(1)
    found = np.full(len(x), np.inf)
    for other in range(CLASSES):
        gap = logits[np.arange(len(x)), best] - logits[:, other]
        slope = np.linalg.norm(weight[best] - weight[other], ord=dual, axis=1)
        with np.errstate(invalid="ignore"):
            distance = np.where(best == other, np.inf, gap / np.where(slope > 0, slope, 1))
        found = np.minimum(found, distance)
    return found


def source(count=12, labels=None, **changed):
    x = np.random.default_rng(3).normal(size=(count, DIM)).astype(np.float32)
    held = {}

    def shared(name, compute):
        if name not in held:
            held[name] = compute()
        return held[name]

    model = ModelSource("linear", (X,), torch=f"{__name__}:linear_factory")
    made = Source(model, {"x": x}, labels, None, 5, None, lambda: None, shared)
    return replace(made, **changed)


def logits_of(x):
    weight, bias = parameters()
    return x @ weight.T + bias


@art
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("attack", [Fgsm, Pgd])
def test_attacks_stay_within_their_budget_and_harm(attack, norm):
    given = source(40)
    scenario = attack(eps=0.7, norm=norm, low=-9.0, high=9.0)
    attacked, achieved = scenario.prepare(given, "x", KEY)
    change = attacked.astype(float) - given.inputs["x"]
    assert norms(change, scenario.order) == pytest.approx(achieved)
    assert achieved.max() <= 0.7 * (1 + 1e-5)
    clean = logits_of(given.inputs["x"]).argmax(1)
    assert (logits_of(attacked).argmax(1) != clean).mean() > 0.2


@art
def test_an_attack_within_the_exact_margin_never_succeeds_and_beyond_it_does():
    """FGSM is optimal against two classes of a linear model; three are checked one way."""
    given = source(40)
    x = given.inputs["x"]
    margin = exact_margins(x.astype(float), np.inf)
    clean = logits_of(x).argmax(1)
    for eps in (0.1, 0.5, 1.0):
        attacked, _ = Pgd(eps=eps, steps=20, low=-9.0, high=9.0).prepare(given, "x", KEY)
        flipped = logits_of(attacked).argmax(1) != clean
        assert not flipped[margin > eps * 1.001].any()
        assert flipped[margin < eps * 0.8].mean() > 0.9


@art
def test_pgd_is_the_same_again_and_its_patterns_differ():
    given = source(20)
    scenario = Pgd(eps=0.3, low=-9.0, high=9.0)
    first = scenario.prepare(given, "x", KEY)[0]
    np.random.seed(99)  # what others drew before must not matter
    assert first.tobytes() == scenario.prepare(given, "x", KEY)[0].tobytes()
    other = scenario.prepare(given, "x", Key.of_pattern(7, {"name": "x"}, 1))[0]
    assert first.tobytes() != other.tobytes()


@art
def test_global_random_state_is_left_as_it_was():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    Pgd(eps=0.3).prepare(source(5), "x", KEY)
    assert (np.random.get_state()[1] == before).all()


@art
def test_decision_based_attack_is_nested_and_repeats():
    given = source(10)
    x, found = given.inputs["x"], {}
    for eps in (0.5, 2.0, 50.0):
        scenario = HopSkipJump(eps=eps, steps=4, low=-9.0, high=9.0)
        found[eps], achieved = scenario.prepare(given, "x", KEY)
        assert achieved.max() <= eps
    clean = logits_of(x).argmax(1)
    flipped = {eps: logits_of(each).argmax(1) != clean for eps, each in found.items()}
    assert flipped[50.0].all()
    assert not (flipped[0.5] & ~flipped[2.0]).any()
    again = HopSkipJump(eps=50.0, steps=4, low=-9.0, high=9.0).prepare(source(10), "x", KEY)[0]
    assert again.tobytes() == found[50.0].tobytes()


@art
def test_a_larger_query_budget_comes_nearer_to_the_exact_margin_and_never_below():
    ratios = []
    for steps, queries in ((1, 50), (4, 100), (20, 300)):
        given = source(6)
        x = given.inputs["x"]
        scenario = HopSkipJump(eps=50.0, steps=steps, queries=queries, low=-9.0, high=9.0)
        found = scenario.prepare(given, "x", KEY)[1]
        ratios.append(found / exact_margins(x.astype(float), 2))
    medians = [float(np.median(each)) for each in ratios]
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < 1.3
    assert min(map(min, ratios)) > 0.999


@art
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_clever_of_a_linear_classifier_is_at_most_its_exact_margin(norm):
    given = source(12)
    scenario = Clever(multiple=1.0, norm=norm, radius=50.0, low=-99.0, high=99.0, batches=5, size=4)
    attacked, achieved = scenario.prepare(given, "x", KEY)
    exact = exact_margins(given.inputs["x"].astype(float), scenario.order)
    scores = given.shared(KEY.hex(), lambda: pytest.fail("scores were not shared"))
    assert (scores <= exact * 1.05).all()
    assert np.median(scores / exact) > 0.9  # and no empty bound
    assert (achieved <= scores * 1.001).all()
    inside = logits_of(attacked).argmax(1) == logits_of(given.inputs["x"]).argmax(1)
    assert inside[scores < exact * 0.999].all()


@art
def test_attacks_follow_labels_where_there_are_some():
    """Against labels that are all wrong, the loss rises along another path."""
    wrong = (logits_of(source().inputs["x"]).argmax(1) + 1) % CLASSES
    usual, other = (
        Fgsm(eps=0.2, low=-9.0, high=9.0).prepare(source(labels=each), "x", KEY)[0]
        for each in (None, wrong)
    )
    assert usual.tobytes() != other.tobytes()


def test_onnx_models_have_no_gradients_of_their_own():
    given = source(model=ModelSource("m", (X,), onnx="m.onnx"))
    with pytest.raises(Unsupported, match="through"):
        Pgd(eps=1.0).torch_form(given.model)
    through = Pgd(eps=1.0, through="a.b:c", weights="w.pt").torch_form(given.model)
    assert (through.torch, through.weights) == ("a.b:c", "w.pt")


def test_models_of_several_inputs_are_refused():
    given = source(inputs={"x": np.zeros((2, 6)), "mask": np.zeros((2, 6))})
    with pytest.raises(Unsupported, match="mask"):
        Pgd(eps=1.0).prepare(given, "x", KEY)


@pytest.mark.parametrize("kind", [Fgsm, Pgd, HopSkipJump, Clever])
def test_token_ids_are_refused_and_examples_work(kind):
    refusal = kind(**{kind.severities[0]: 1.0}).refuses(TensorSpec("ids", (None, 9), "int64"))
    assert "token ids" in refusal
    assert "\n" not in refusal
    cases = expand([yaml.safe_load(kind.example)])
    assert len({case.id for case in cases}) == len(cases) > 2


@pytest.mark.parametrize(
    "wrong",
    [
        (Fgsm, {"eps": -1.0}),
        (Pgd, {"eps": 1.0, "steps": 0}),
        (Pgd, {"eps": 1.0, "step": 0.0}),
        (Pgd, {"eps": 1.0, "weights": "w.pt"}),
        (Pgd, {"eps": 1.0, "low": 1.0, "high": 0.0}),
        (HopSkipJump, {"eps": 1.0, "norm": "l1"}),
        (Clever, {"multiple": -1.0}),
        (Clever, {"multiple": 1.0, "batches": 0}),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong[0](**wrong[1])


def test_the_budget_is_in_the_name():
    assert Pgd(eps=1.0, steps=7, norm="l2", starts=3).variant == "l2-7steps-3starts"
    asked = HopSkipJump(eps=1.0, environment="onnxruntime-cpu-int8-t1")
    assert "100queries(onnxruntime-cpu-int8-t1)" in asked.variant
    assert asked.guide == "onnxruntime-cpu-int8-t1"


def test_code_of_a_scenario_needs_to_be_allowed(tmp_path):
    spec = Spec.model_validate(
        {
            "model": {"builtin": "digits-cnn"},
            "environments": [{"backend": "onnxruntime"}],
            "scenarios": [{"pgd": {"eps": 1, "through": "os:system"}}],
        }
    )
    with pytest.raises(RequestError, match="--allow-code"):
        make(spec, allow_code=False, cache=tmp_path, code_cache=tmp_path)


def test_missing_toolbox_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(adversarial, "find_spec", lambda name: None)
    assert "hwbench[adversarial]" in Pgd(eps=1.0).requires().reason


def test_prepared_inputs_come_back_as_they_were(tmp_path):
    array, achieved = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, np.nan])
    save(tmp_path / "0", {"x": Prepared(array, achieved)})
    save(tmp_path / "0", {"x": Prepared(array + 1, achieved)})  # who comes second changes nothing
    found = load(tmp_path / "0")["x"]
    assert found.array.tobytes() == array.tobytes()
    np.testing.assert_array_equal(found.achieved, achieved)


def test_folders_tell_models_severities_and_seeds_apart():
    layers = [Layer(Pgd(eps=eps)) for eps in (1.0, 2.0)]
    found = {folder_of(Path("/r"), model, layer, 0, seed)
             for model in "ab" for layer in layers for seed in (0, 1)}  # fmt: skip
    assert len(found) == 8
    case = located(Case("x", (layers[0],)), Path("/r"), "a", 0)
    assert case.layers[0].prepared == str(folder_of(Path("/r"), "a", layers[0], 0, 0))


SWEEP = {
    "model": {"builtin": "digits-cnn"},
    "environments": [{"backend": "onnxruntime", "precision": ["fp32", "int8"]}],
    "latency": False,
}


@art
def test_every_environment_is_fed_the_same_bytes(tmp_path):
    guide = "onnxruntime-cpu-int8-t1"
    scenarios = [
        {"pgd": {"eps": 0.1, "steps": 3}, "patterns": 2},
        {"hopskipjump": {"eps": [0.5, 1], "steps": 1, "queries": 10, "environment": guide}},
        {"hopskipjump": {"eps": 1, "environment": "tpu"}},
    ]
    data = {"builtin": "digits", "limit": 12, "batch": 5}
    spec = Spec.model_validate({**SWEEP, "data": data, "scenarios": scenarios})
    options = engine.Options(output=tmp_path / "run", workers=2, cache=tmp_path / "cache")
    run = engine.start(spec, options, engine.Silent(), Stop())
    rows = [r for r in run.read("records").to_pylist() if r["scenario"] != "clean"]
    hashes = {}
    for each in rows:
        place = (each["scenario"], each["severity"], each["pattern"], each["batch"])
        hashes.setdefault(place, {})[each["environment"]] = each["edits_hash"]
    assert all(len(each) == 2 and len(set(each.values())) == 1 for each in hashes.values())
    assert len({next(iter(each.values())) for each in hashes.values()}) > 6
    refused = [each for each in run.read_json("plan.json")["refusals"] if "'tpu'" in each[3]]
    assert len(refused) == 2


@art
def test_what_cannot_be_prepared_is_unsupported_with_the_reason(tmp_path):
    path = Path(__file__).parents[1] / "hwbench/builtin/digits_cnn/model.onnx"
    archive = np.load(path.with_name("digits.npz"))
    np.savez(tmp_path / "d.npz", x=archive["x_test"][:6] / np.float32(16), y=archive["y_test"][:6])
    spec = Spec.model_validate(
        {
            **SWEEP,
            "model": {"onnx": str(path)},
            "data": {"npz": str(tmp_path / "d.npz"), "labels": "y"},
            "environments": [{"backend": "onnxruntime"}],
            "scenarios": [{"pgd": {"eps": 0.1}}],
        }
    )
    options = engine.Options(output=tmp_path / "run", cache=tmp_path / "cache")
    run = engine.start(spec, options, engine.Silent(), Stop())
    (refusal,) = run.read_json("plan.json")["refusals"]
    assert "ONNX file" in refusal[3] and "through" in refusal[3]
    assert not [r for r in run.read("records").to_pylist() if r["scenario"] != "clean"]
