from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from tiny_vlm import VISUAL_TOKENS, save_tiny_vlm, tiny_samples

from pruners.pruning import KeepSchedule, Pruning
from pruners.rankers import parse_ranker
from pruners.runtime import pruned
from studies.answers import divergence
from studies.errors import DataError, ModelError
from studies.evaluator import PlainEvaluator
from studies.models import load
from studies.prompts import form_batches, prompt_lengths
from studies.records import EvaluationSettings
from studies.spec import ModelSpec

SETTINGS = EvaluationSettings(max_new_tokens=4, batch_size=4)
RATES = (1, 1, 0.5, 0.25, 0)
RANKERS = [
    *("attention:queries=last", "attention:queries=instruction", "random", "uniform", "topv"),
    *("divprune", "knorm", "dart"),
]


def pruning(ranker="attention:queries=last", rates=RATES):
    return Pruning(ranker=parse_ranker(ranker), schedule=KeepSchedule(keep_rates=rates))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = save_tiny_vlm(tmp_path_factory.mktemp("vlm"), seed=3)
    source = ModelSpec(id=str(folder))
    return load(source)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return tiny_samples(tmp_path_factory.mktemp("images"), count=6)


def evaluator(vlm, samples, metric="exact_match", settings=SETTINGS, **options):
    return PlainEvaluator(vlm.model, vlm.processor, samples, metric, settings, **options)


def attach(vlm, value):
    return nullcontext if value is None else partial(pruned, vlm.model, value)


def run_all(made, value, batches=None):
    numbers = range(len(made.batches)) if batches is None else batches
    return {record.id: record for number in numbers for record in made.run(number, value)}


def prompts(vlm, samples):
    """What a user of transformers writes."""
    turns = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": Image.open(path)} for path in sample.images),
                    {"type": "text", "text": sample.question},
                ],
            }
        ]
        for sample in samples
    ]
    padding = {"padding": True, "padding_side": "left"}
    return vlm.processor.apply_chat_template(
        turns,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=padding,
    )


@torch.inference_mode()
def by_hand(vlm, samples, value, **options):
    """Predictions and first log-probabilities of the user's own path: attach and generate, pixels and all."""
    inputs = prompts(vlm, samples)
    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    } | options
    if value is None:
        made = vlm.model.generate(**inputs, **options)
    else:
        with pruned(vlm.model, value):
            made = vlm.model.generate(**inputs, **options)
    said = vlm.processor.batch_decode(
        made.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in said], made.logits[0].log_softmax(-1)


@pytest.mark.parametrize("value", [None, *map(pruning, RANKERS)], ids=["unpruned", *RANKERS])
@pytest.mark.parametrize("together", [1, 4])
def test_every_sample_scores_as_on_the_plain_path(vlm, samples, value, together):
    made = evaluator(vlm, samples)
    records = run_all(made, value)
    assert len(records) == len(samples)
    for number, batch in enumerate(made.batches):
        found = made._answerer.generate(made._prepared[number], attach(vlm, value))
        for start in range(0, len(batch), together):
            rows = range(start, min(start + together, len(batch)))
            said, first = by_hand(vlm, [samples[batch[row]] for row in rows], value)
            assert [records[samples[batch[row]].id].prediction for row in rows] == said
            torch.testing.assert_close(
                torch.cat([found.log_probs[row] for row in rows]), first, atol=1e-5, rtol=0
            )


def test_pruning_matters_here(vlm, samples):
    made = evaluator(vlm, samples)
    whole, cut = run_all(made, None), run_all(made, pruning())
    assert [record.prediction for record in whole.values()] != [record.prediction for record in cut.values()]
    assert all(record.kl == 0 for record in whole.values())
    assert all(record.kl > 1e-4 for record in cut.values())


def test_kl_compares_the_first_answer_token_with_the_unpruned_one(vlm, samples):
    records = run_all(evaluator(vlm, samples), pruning())
    _, p = by_hand(vlm, samples, None)
    _, q = by_hand(vlm, samples, pruning())
    for sample, reference, other in zip(samples, p, q, strict=True):
        expected = float((reference.exp() * (reference - other)).sum())
        assert records[sample.id].kl == pytest.approx(expected, abs=1e-5)


def test_images_are_processed_and_encoded_once_per_evaluator(vlm, samples, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "studies.images.Image.open",
        lambda path, real=Image.open, **more: opened.append(path) or real(path, **more),
    )
    batches = form_batches([length.total for length in prompt_lengths(vlm.processor, samples)], 4)
    made = evaluator(vlm, samples, batches=batches)
    sizes = []
    tower = vlm.model.model.vision_tower
    hook = tower.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    opened.clear()
    try:
        run_all(made, pruning())
        assert (sorted(sizes), len(opened)) == ([2, 4], len(samples))
        run_all(made, pruning("uniform"))
        run_all(made, None)
        assert (sorted(sizes), len(opened)) == ([2, 4], len(samples))
    finally:
        hook.remove()


def test_numbers_do_not_depend_on_who_runs_which_batch_when(vlm, samples):
    together = run_all(evaluator(vlm, samples), pruning())
    batches = evaluator(vlm, samples).batches
    apart = {}
    for number in reversed(range(len(batches))):
        worker = evaluator(vlm, samples, batches=batches)
        worker.run(number, pruning("uniform"))
        apart |= run_all(worker, pruning(), [number])
    assert apart == together


def test_one_token_takes_one_forward_and_is_that_forward(vlm, samples):
    made = evaluator(vlm, samples, settings=replace(SETTINGS, max_new_tokens=1))
    made.run(0, None)
    calls = []
    hook = vlm.model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    try:
        found = made._answerer.generate(made._prepared[0], nullcontext)
    finally:
        hook.remove()
    assert len(calls) == 1
    inputs = prompts(vlm, [samples[index] for index in made.batches[0]])
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = vlm.model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
    assert torch.equal(torch.cat(found.log_probs), logits.log_softmax(-1))
    said = vlm.processor.batch_decode(logits.argmax(-1)[:, None], skip_special_tokens=True)
    assert found.texts == tuple(said)


@torch.inference_mode()
def step_by_step(vlm, sample, tokens):
    """Log-probabilities (A, V) along an answer, token by token through the KV cache."""
    inputs, rows, cache = prompts(vlm, [sample]), [], None
    for token in tokens:
        out = vlm.model(**inputs, past_key_values=cache, use_cache=True)
        rows.append(out.logits[0, -1].log_softmax(-1))
        cache = out.past_key_values
        mask = torch.ones(1, inputs["attention_mask"].shape[1] + 1, dtype=torch.long)
        position = mask.sum(1, keepdim=True) - 1
        inputs = {"input_ids": torch.tensor([[token]]), "attention_mask": mask, "position_ids": position}
    return torch.stack(rows)


def along(vlm, sample, tokens, value):
    if value is None:
        return step_by_step(vlm, sample, tokens)
    with pruned(vlm.model, value):
        return step_by_step(vlm, sample, tokens)


@pytest.mark.parametrize("value", [None, *map(pruning, RANKERS)], ids=["unpruned", *RANKERS])
def test_a_forced_answer_has_the_likelihood_of_its_steps(vlm, samples, value):
    made = evaluator(vlm, samples, "choice")
    made.run(0, None)
    answers = [(9, 10, 11), (12,), (13, 14), (9, 9, 9, 9)]
    with torch.inference_mode():
        found = made._answerer.force(made._prepared[0], answers, attach(vlm, value))
    for index, tokens, rows in zip(made.batches[0], answers, found, strict=True):
        torch.testing.assert_close(rows, along(vlm, samples[index], tokens, value), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [None, pruning()], ids=["unpruned", "pruned"])
def test_the_likeliest_choice_is_chosen(vlm, samples, value):
    mixed = [
        replace(sample, choices=sample.choices[: 2 + number % 2]) for number, sample in enumerate(samples)
    ]
    records = run_all(evaluator(vlm, mixed, "choice"), value)
    for sample in mixed:
        likelihood = {}
        for choice in sample.choices:
            tokens = vlm.processor.tokenizer(choice)["input_ids"]
            rows = along(vlm, sample, tokens, value)
            likelihood[choice] = sum(float(row[token]) for row, token in zip(rows, tokens, strict=True))
        best = max(likelihood, key=likelihood.get)
        assert records[sample.id].prediction == best
        assert records[sample.id].score == float(best in sample.answers)
    assert len({record.prediction for record in records.values()}) > 1


def test_fidelity_is_one_without_pruning_and_falls_with_the_divergence(vlm, samples):
    made = evaluator(vlm, [replace(sample, answers=()) for sample in samples], "fidelity")
    assert {record.score for record in run_all(made, None).values()} == {1.0}
    records = run_all(made, pruning())
    for sample in samples:
        inputs = prompts(vlm, [sample])
        whole = vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        tokens = whole[0, inputs["input_ids"].shape[1] :].tolist()
        p, q = along(vlm, sample, tokens, None), along(vlm, sample, tokens, pruning())
        kl = float((p.exp() * (p - q)).sum(-1).mean())
        assert records[sample.id].kl == pytest.approx(kl, abs=1e-5)
        assert records[sample.id].score == pytest.approx(torch.tensor(-kl).exp().item(), abs=1e-5)


def test_records_count_visual_and_text_tokens(vlm, samples):
    for sample in samples:
        record = run_all(evaluator(vlm, samples), None)[sample.id]
        assert record.visual_tokens == VISUAL_TOKENS
        assert record.text_tokens == 1 + len(sample.question.split())


def test_samples_may_have_several_images(vlm, samples):
    two = replace(samples[0], id="two", images=(samples[1].images[0], samples[2].images[0]))
    mixed = [samples[0], two, *samples[1:4]]
    made = evaluator(vlm, mixed)
    for value in (None, pruning()):
        records = run_all(made, value)
        assert records["two"].visual_tokens == 2 * VISUAL_TOKENS
        for sample in mixed:
            (text,), _ = by_hand(vlm, [sample], value)
            assert records[sample.id].prediction == text


def test_an_answer_ends_with_its_end_token(vlm, samples, monkeypatch):
    made = evaluator(vlm, samples)
    made.run(0, None)
    free = made._unpruned[0].tokens
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [free[0][1], 2])
    with torch.inference_mode():
        ended = made._answerer.generate(made._prepared[0], nullcontext).tokens
    assert ended[0] == free[0][:2]
    assert all(row == whole[: len(row)] for row, whole in zip(ended, free, strict=True))


def test_the_model_is_put_in_eval_mode(vlm, samples):
    vlm.model.train()
    evaluator(vlm, samples)
    assert not vlm.model.training


def test_a_model_that_computes_no_numbers_is_refused(vlm, samples):
    with torch.no_grad():
        weight = vlm.model.lm_head.weight
        saved, weight[5] = weight[5].clone(), torch.nan
        try:
            with pytest.raises(ModelError, match=r"not numbers .NaN.: load it in bfloat16 or float32"):
                evaluator(vlm, samples).run(0, None)
        finally:
            weight[5] = saved


def test_a_sample_that_the_processor_refuses_is_named(vlm, samples):
    odd = replace(samples[0], id="odd", question="what <image> red")
    with pytest.raises(DataError, match="refuses 'odd': ") as caught:
        evaluator(vlm, [samples[1], odd])
    assert "\n" not in str(caught.value)


def test_an_image_that_has_gone_is_named(vlm, samples, tmp_path):
    gone = replace(samples[0], images=(tmp_path / "gone.png",))
    with pytest.raises(DataError, match=r"gone\.png cannot be opened any more"):
        evaluator(vlm, [gone])


def test_a_model_without_pre_encoded_features_is_refused(vlm, samples):
    class Other(torch.nn.Module):
        def forward(self, input_ids, pixel_values): ...

    with pytest.raises(ModelError, match="Other takes no pre-encoded image features"):
        PlainEvaluator(Other(), vlm.processor, samples, "exact_match", SETTINGS)


@pytest.mark.parametrize(
    ("lengths", "size", "batches"),
    [
        ([3, 9, 5, 9, 1], 2, [[1, 3], [2, 0], [4]]),
        ([4, 4, 4], 2, [[0, 1], [2]]),
        ([1, 2], 8, [[1, 0]]),
        ([], 8, []),
    ],
)
def test_batches_are_by_length_longest_first(lengths, size, batches):
    assert form_batches(lengths, size) == batches


def test_a_batch_holds_at_least_one_sample():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        form_batches([1], 0)


def test_divergence_of_distributions():
    p, q = (
        torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.75, 0.0]]),
    )
    expected = 0.5 * torch.tensor(2.0).log().item() / 2
    assert divergence(p.log(), q.log()) == pytest.approx(expected)
    assert divergence(p.log(), p.log()) == 0
