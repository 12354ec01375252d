"""Profiles as YAML: byte for byte there and back, and one clear line about whatever is wrong."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoConfig, LlamaConfig, LlavaConfig

from pruners.errors import ProfileError
from pruners.profile import (
    Expected,
    FlopsRatio,
    KeepSchedule,
    Latency,
    ModelRef,
    Provenance,
    Pruning,
    PruningProfile,
    Recovery,
)
from pruners.rankers import (
    AttentionRanker,
    DartRanker,
    DivPruneRanker,
    KeyNormRanker,
    RandomRanker,
    TopvRanker,
    UniformRanker,
)
from pruners.strict_yaml import MAX_BYTES

patient = settings(deadline=None, max_examples=150)
share, text, size = st.floats(0, 1), st.text(max_size=40), st.floats(0, 1e6)
positive = st.floats(1e-6, 1e6)
rankers = st.one_of(
    st.builds(AttentionRanker),
    st.builds(AttentionRanker, queries=st.sampled_from(["last", "all"]), score_layer=st.just("next")),
    st.builds(TopvRanker, alpha=share, sigma=positive, epsilon=positive, iterations=st.integers(1, 9)),
    st.builds(DivPruneRanker),
    st.builds(KeyNormRanker),
    st.builds(DartRanker, visual_pivots=st.integers(1, 99), text_pivots=st.integers(0, 99)),
    st.builds(RandomRanker, seed=st.integers(0, 2**31)),
    st.builds(UniformRanker),
)
schedules = st.builds(
    KeepSchedule,
    keep_rates=st.lists(share, min_size=1, max_size=48).map(lambda rates: tuple(sorted(rates, reverse=True))),
    rounding=st.sampled_from(["nearest", "floor"]),
    position_ids=st.sampled_from(["keep", "renumber"]),
    min_tokens=st.integers(0, 1000),
)
expectations = st.builds(
    Expected,
    accuracy=st.none() | share,
    accuracy_interval=st.none() | st.tuples(share, share).map(lambda pair: tuple(sorted(pair))),
    metric=st.none() | text,
    samples=st.none() | st.integers(1, 10**9),
    flops_ratio=st.none() | st.builds(FlopsRatio, decoder=size, exact=st.none() | size),
    latency=st.none()
    | st.builds(
        Latency,
        prefill_ms=size,
        decode_ms=size,
        baseline_prefill_ms=size,
        baseline_decode_ms=size,
        rounds=st.none() | st.integers(1, 99),
        prefill_ratio=st.none() | positive,
        prefill_interval=st.none() | st.tuples(positive, positive).map(lambda pair: tuple(sorted(pair))),
    ),
)
provenances = st.builds(
    Provenance,
    study=st.none() | text,
    trial=st.none() | st.integers(0, 10**6),
    dataset_sha256=st.none() | st.from_regex("[0-9a-f]{64}", fullmatch=True),
    created=st.none() | text | st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
    versions=st.dictionaries(text, text, max_size=3),
)


TEXT = """\
schema: searchsvc/pruning-profile/v1
name: demo
model:
  id: local/demo
  architecture: LlavaForConditionalGeneration
  num_layers: 4
  hidden_size: 64
ranker:
  type: attention
  queries: instruction
  score_layer: previous
schedule:
  keep_rates: [1.0, 1.0, 0.5, 0.25]
  rounding: nearest
  position_ids: keep
  min_tokens: 0
recovery:
  every: 4
expected:
  accuracy: 0.91
  accuracy_interval: [0.89, 0.93]
provenance:
  created: '2026-01-31T10:00:00Z'
  versions:
    torch: 2.13.0
"""


@st.composite
def profiles(draw: st.DrawFn) -> PruningProfile:
    schedule = draw(schedules)
    model = ModelRef(
        id=draw(text),
        revision=draw(st.none() | text | st.from_regex("[0-9]{3}e[0-9]{4}", fullmatch=True)),
        architecture=draw(text),
        num_layers=len(schedule.keep_rates),
        hidden_size=draw(st.integers(1, 10**5)),
    )
    return PruningProfile(
        name=draw(st.text(min_size=1, max_size=200)),
        model=model,
        ranker=draw(rankers),
        schedule=schedule,
        recovery=draw(st.none() | st.builds(Recovery, every=st.integers(2, 9))),
        expected=draw(st.none() | expectations),
        provenance=draw(st.none() | provenances),
    )


@patient
@given(profiles())
def test_a_profile_reads_back_equal_and_writes_the_same_bytes(profile: PruningProfile):
    written = profile.to_yaml()
    read = PruningProfile.from_yaml(written)
    assert read == profile
    assert hash(read) == hash(profile)
    assert read.to_yaml() == written


@pytest.mark.parametrize(
    "text",
    [
        "next\x85line", "line\u2028separator", "two\nlines", "tab\t", " blanks ", "\ufeff", "\x00", "", "7", "1e5",
        "1e-05", "12e45678", ".nan", "-.inf", "true", "no", "null", "~", "=", "<<", "2026-01-31", "1:30", "0x1f", "a: b",
        "# no", "&a", "*a", "!x", "- x", "[", "{", "'", '"', "%", "@", "日本語", "😀", "word " * 60,
    ],
)  # fmt: skip
def test_awkward_texts_survive(text: str):
    profile = PruningProfile.from_yaml(TEXT)
    provenance = Provenance(study=text, versions={text: text})
    changed = profile.model_copy(update={"name": f"{text}.", "provenance": provenance})
    assert PruningProfile.from_yaml(changed.to_yaml()) == changed
    assert PruningProfile.from_yaml(changed.to_yaml()).to_yaml() == changed.to_yaml()


@patient
@given(profile=profiles())
def test_files_hold_the_same_bytes_after_load_and_save(tmp_path_factory: pytest.TempPathFactory, profile):
    folder = tmp_path_factory.mktemp("profiles")
    profile.save(folder / "a.yaml")
    PruningProfile.load(folder / "a.yaml").save(folder / "b.yaml")
    assert (folder / "a.yaml").read_bytes() == (folder / "b.yaml").read_bytes()
    assert PruningProfile.load(str(folder / "b.yaml")) == profile


def test_the_order_of_keys_is_fixed():
    assert PruningProfile.from_yaml(TEXT).to_yaml() == TEXT


def test_what_is_not_required_has_defaults():
    profile = PruningProfile.from_yaml(
        "ranker: {type: uniform}\nschedule: {keep_rates: [1, 1e-1]}\nname: x\n"
        "schema: searchsvc/pruning-profile/v1\n"
        "model: {id: a, architecture: B, num_layers: 2, hidden_size: 3}\n"
    )
    assert profile.schedule == KeepSchedule(keep_rates=(1.0, 0.1), rounding="nearest", position_ids="keep")
    assert all(type(rate) is float for rate in profile.schedule.keep_rates)
    assert (profile.recovery, profile.expected, profile.provenance, profile.schedule.min_tokens) == (
        None,
    ) * 3 + (0,)


def test_a_date_without_quotes_is_text():
    profile = PruningProfile.from_yaml(TEXT.replace("'2026-01-31T10:00:00Z'", "2026-01-31"))
    assert profile.provenance is not None
    assert profile.provenance.created == "2026-01-31"


RATES = "[1.0, 1.0, 0.5, 0.25]"
WRONG = {
    "rates rise": (
        RATES,
        "[1, 0.4, 0.5, 0.6]",
        "p:13: schedule.keep_rates must not rise: layer 1 keeps 0.4, layer 2 keeps 0.5",
    ),
    "wrong length": (RATES, "[1, 1]", "p:13: schedule.keep_rates has 2 rates, but model.num_layers is 4"),
    "rate above 1": (
        RATES,
        "[1.5, 1, 1, 1]",
        "p:13: schedule.keep_rates[0] must be less than or equal to 1, not 1.5",
    ),
    "negative rate": (
        RATES,
        "[1, 1, 1, -.5]",
        "p:13: schedule.keep_rates[3] must be greater than or equal to 0",
    ),
    "nan": (RATES, "[1, 1, 1, .nan]", "p:13: schedule.keep_rates[3] must be a finite number, not nan"),
    "inf": (RATES, "[.inf, 1, 1, 1]", "p:13: schedule.keep_rates[0] must be a finite number, not inf"),
    "rate as text": (
        RATES,
        "[1, 1, 1, '0.5']",
        "p:13: schedule.keep_rates[3] must be a valid number, not '0.5'",
    ),
    "rate as truth": (
        RATES,
        "[true, 1, 1, 1]",
        "p:13: schedule.keep_rates[0] must be a valid number, not True",
    ),
    "no list": (RATES, "1.0", "p:13: schedule.keep_rates must be a list, not 1.0"),
    "no rates": (f"  keep_rates: {RATES}\n", "", "p:12: 'schedule.keep_rates' is missing"),
    "unknown key": (
        "  rounding",
        "  roundng",
        "p:14: unknown key 'schedule.roundng'; did you mean 'rounding'? (known: keep_rates,",
    ),
    "unknown top key": ("recovery:", "recover:", "p:17: unknown key 'recover'; did you mean 'recovery'?"),
    "misspelt required key": ("ranker:", "rankr:", "p:8: unknown key 'rankr'; did you mean 'ranker'?"),
    "unknown ranker option": (
        "  queries",
        "  query",
        "p:10: unknown key 'ranker.query'; did you mean 'queries'? (known: queries, score_layer, type)",
    ),
    "unknown ranker": ("type: attention", "type: attn", "p:8: ranker.type 'attn' is not known"),
    "no ranker type": ("  type: attention\n", "", "p:8: 'ranker.type' is missing"),
    "unknown choice": ("nearest", "up", "p:14: schedule.rounding must be 'nearest' or 'floor', not 'up'"),
    "recovery of 1": (
        "every: 4",
        "every: 1",
        "p:18: recovery.every must be greater than or equal to 2, not 1",
    ),
    "fraction for a whole number": (
        "num_layers: 4",
        "num_layers: 4.0",
        "p:6: model.num_layers must be a valid integer",
    ),
    "interval reversed": (
        "[0.89, 0.93]",
        "[0.93, 0.89]",
        "p:21: expected.accuracy_interval must be [low, high], not [0.93, 0.89]",
    ),
    "interval of a latency reversed": (
        "  accuracy: 0.91",
        "  latency: {prefill_ms: 5, decode_ms: 1, baseline_prefill_ms: 8, baseline_decode_ms: 1, prefill_interval: [0.7, 0.6]}",
        "p:20: expected.latency.prefill_interval must be [low, high], not [0.7, 0.6]",
    ),
    "latency of no time": (
        "  accuracy: 0.91",
        "  latency: {prefill_ms: 5, decode_ms: 1, baseline_prefill_ms: 8, baseline_decode_ms: 1, prefill_ratio: 0}",
        "p:20: expected.latency.prefill_ratio must be greater than 0, not 0",
    ),
    "key twice": ("name: demo", "name: demo\nname: other", "p:3: not valid YAML: key 'name' is given twice"),
    "nested key twice": (
        "  every: 4",
        "  every: 4\n  every: 5",
        "p:19: not valid YAML: key 'every' is given twice",
    ),
    "list as key": (
        "name: demo",
        "? [a]\n: b",
        "p:2: not valid YAML: key '...' must be text; put it in quotes",
    ),
    "number as key": (
        "name: demo",
        "name: demo\n7: x",
        "p:3: not valid YAML: key '7' must be text; put it in quotes",
    ),
    "no schema": (
        "schema: searchsvc/pruning-profile/v1\n",
        "",
        "p: 'schema' is missing; a profile begins with 'schema: searchsvc/",
    ),
    "other schema": ("profile/v1", "profile/v2", "p:1: schema must be 'searchsvc/pruning-profile/v1', not "),
    "empty name": ("name: demo", "name: ''", "p:2: name must have at least 1 character, not ''"),
    "number for text": ("id: local/demo", "id: 5", "p:4: model.id must be a valid string, not 5"),
    "broken brackets": (RATES, "[1.0", "p:14: not valid YAML: "),
    "tag that does not fit": ("every: 4", "every: !!int four", "p: not valid YAML: "),
    "python object": ("every: 4", "every: !!python/object/apply:os.getcwd []", "p:18: not valid YAML: "),
    "empty": (TEXT, "", "p: holds no keys; it must be a mapping"),
    "a list": (TEXT, "[1, 2]", "p: holds no keys; it must be a mapping"),
    "two documents": (TEXT, f"{TEXT}---\n{TEXT}", "p:26: not valid YAML: "),
    "endless nesting": (TEXT, "[" * 5_000, "p:1: not valid YAML: nested deeper than 32 levels"),
    "alias of itself": (RATES, "&rates [*rates]", "p:13: schedule.keep_rates[0] must be a valid number"),
    "control character": ("name: demo", "name: de\x00mo", "p: not valid YAML: "),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_profile_is_refused_in_one_line(old: str, new: str, message: str):
    assert TEXT.count(old) == 1
    with pytest.raises(ProfileError, match=f"^{re.escape(message)}") as caught:
        PruningProfile.from_yaml(TEXT.replace(old, new), "p")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_aliases_that_grow_without_end_cost_nothing():
    lists = "&a0 [x, x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 60))
    wrong = TEXT.replace("name: demo", f"name: [{lists}]").replace("queries: instruction", "queries: *a59")
    with pytest.raises(ProfileError, match=r"^p:10: ranker.queries must be 'last', .*, not \[\[") as caught:
        PruningProfile.from_yaml(wrong, "p")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("make", ["missing", "folder", "large", "binary"])
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path: Path, make: str):
    path = tmp_path / "profile.yaml"
    match make:
        case "folder":
            path.mkdir()
        case "large":
            path.write_text(f"{TEXT}#{'x' * MAX_BYTES}")
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
    reason = {
        "missing": "cannot be read: No such file or directory",
        "folder": "cannot be read: Is a directory",
        "large": "larger than 1024 KiB, so this is not the file that is meant",
        "binary": "not UTF-8 text (byte 0)",
    }[make]
    with pytest.raises(ProfileError) as caught:
        PruningProfile.load(path)
    assert str(caught.value) == f"{path}: {reason}"


def _llava(**text: int) -> LlavaConfig:
    sizes = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4} | text
    return LlavaConfig(text_config=LlamaConfig(**sizes))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_llava(num_hidden_layers=6), "model.num_layers is 4 in the profile, 6 in the model"),
        (_llava(hidden_size=128), "model.hidden_size is 64 in the profile, 128 in the model"),
        (
            LlamaConfig(num_hidden_layers=4, hidden_size=64, num_attention_heads=4),
            "model.architecture is LlavaForConditionalGeneration in the profile, LlamaForCausalLM in the"
            " model",
        ),
        (
            LlavaConfig(
                architectures=["Other"], text_config=LlamaConfig(num_hidden_layers=4, hidden_size=64)
            ),
            "model.architecture is LlavaForConditionalGeneration in the profile, Other in the model",
        ),
    ],
)
def test_another_model_is_refused_by_the_key_that_differs(config, message: str):
    with pytest.raises(ProfileError) as caught:
        PruningProfile.from_yaml(TEXT).check_model(config)
    assert str(caught.value) == f"profile 'demo' is not for this model: {message}"


def test_the_model_itself_passes_from_memory_and_from_disk(tmp_path: Path):
    profile = PruningProfile.from_yaml(TEXT)
    profile.check_model(_llava())
    saved = _llava()
    saved.architectures = ["LlavaForConditionalGeneration"]
    saved.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    profile.check_model(loaded)
    assert ModelRef.from_config(loaded, id="local/demo") == profile.model


def test_values_are_frozen_and_hashable():
    pruning = Pruning(ranker=UniformRanker(), schedule=KeepSchedule(keep_rates=(1, 0.5)))
    assert (
        len({pruning, pruning.model_copy(), pruning.model_copy(update={"recovery": Recovery(every=4)})}) == 2
    )
    with pytest.raises(ValidationError, match="frozen"):
        pruning.recovery = Recovery(every=4)
    with pytest.raises(
        ValidationError, match=r"keep_rates must not rise: layer 7 keeps 0\.5, layer 8 keeps 0\.6"
    ):
        KeepSchedule(keep_rates=(1,) * 7 + (0.5, 0.6))


@pytest.mark.parametrize(
    ("rates", "identity"), [((1, 1), True), ((1, 0.9999), False), ((1, 0), False), ((1.0,), True)]
)
def test_identity_means_that_no_number_of_tokens_is_reduced(rates: tuple[float, ...], identity: bool):
    assert Pruning(ranker=UniformRanker(), schedule=KeepSchedule(keep_rates=rates)).is_identity is identity


def test_a_schedule_counts_with_its_own_rules():
    schedule = KeepSchedule(keep_rates=(1, 0.5, 0.1), rounding="floor", min_tokens=3)
    assert schedule.counts(15) == (15, 7, 3)
    assert schedule.counts(2) == (2, 2, 2)
    assert KeepSchedule.for_depth(3, schedule) is schedule
    with pytest.raises(ProfileError, match="one rate per layer: 3 rates, 4 layers"):
        KeepSchedule.for_depth(4, (1, 0.5, 0.1))
