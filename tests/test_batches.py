"""What padding and neighbours change (nothing), and what kinds of call there are."""

from typing import Any

import pytest
import torch
from cases import CASES, RANKERS, case, pruning
from tiny_models import IMAGE, MIXED, ONE, Question, batch, pad, single, tiny_llava

from pruners import pruned
from pruners.errors import UnsupportedCallError


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


class TestBatches:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("name", CASES)
    def test_a_padded_run_equals_the_single_runs(self, model: Any, name: str, side: str) -> None:
        inputs, cut = batch(model, MIXED, side), case(name)
        with pruned(model, cut) as handle:
            logits, trace = model(**inputs).logits, handle.trace
            for sample, question in enumerate(MIXED):
                if not question.images:
                    continue
                alone = model(**single(model, inputs, sample)).logits[0]
                start = int(inputs["attention_mask"][sample].argmax())
                for layer, places in enumerate(handle.trace.kept):
                    assert torch.equal(places[0] + start, trace.kept[layer][sample])
                found = logits[sample, trace.rows(sample, trace.kept[-1][sample])]
                scale = float(alone.abs().max())
                torch.testing.assert_close(found / scale, alone / scale, atol=1e-5, rtol=0)

    def test_order_in_the_batch_does_not_matter(self, model: Any) -> None:
        questions = (Question((2, 7)), Question((2, 7)))
        inputs = batch(model, questions)
        turned = {name: value.flip(0) for name, value in inputs.items()}
        with pruned(model, pruning("random", "pdrop")) as handle:
            model(**inputs)
            first = handle.trace.kept
            model(**turned)
        for layer, other in zip(first, handle.trace.kept, strict=True):
            assert torch.equal(layer[0], other[1])
            assert torch.equal(layer[1], other[0])

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_both_attention_implementations_agree(self, attention: str) -> None:
        model, reference = tiny_llava(attention=attention), tiny_llava()
        inputs = batch(model, MIXED)
        for ranker in ("attention", "attention:score_layer=next"):
            with pruned(reference, pruning(ranker, "pdrop")):
                expected = reference(**inputs).logits
            with pruned(model, pruning(ranker, "pdrop")):
                torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=0)

    def test_a_row_without_images_keeps_everything(self, model: Any) -> None:
        inputs = batch(model, MIXED)
        with pruned(model, pruning("attention", "vtw")) as handle:
            model(**inputs)
        assert handle.trace.visual_tokens[-1] == (0, 0, 0, 0)
        assert len(handle.trace.kept[-1][3]) == 1 + 5


class TestTextOnly:
    def test_passes_untouched(self, model: Any) -> None:
        ids = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]])
        unpruned = model(input_ids=ids).logits
        with pruned(model, pruning("attention", "pdrop")) as handle:
            model(**batch(model, ONE))
            trace = handle.trace
            assert torch.equal(model(input_ids=ids).logits, unpruned)
            assert handle.trace is trace


class TestAnswers:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("ranker", RANKERS)
    def test_teacher_forced_answers_never_rank(self, model: Any, ranker: str, side: str) -> None:
        questions = batch(model, (Question((2, 4)), Question((3, 2), images=1)), "left")
        rows = [
            ids[mask.bool()]
            for ids, mask in zip(questions["input_ids"], questions["attention_mask"], strict=True)
        ]
        answered = [torch.cat([row, torch.tensor([30 + n, 31, 32][: 2 + n])]) for n, row in enumerate(rows)]
        inputs = pad(answered, questions["pixel_values"], side)
        with pruned(model, pruning(ranker, "pdrop")) as handle:
            model(**pad(rows, questions["pixel_values"], side))
            alone = handle.trace
            handle.prompt_lengths = torch.tensor([len(row) for row in rows])
            model(**inputs)
            assert handle.prompt_lengths is None
        for layer, places in enumerate(handle.trace.kept):
            for sample, row in enumerate(rows):
                pads = int(inputs["attention_mask"][sample].argmax())
                before = int(pad(rows, questions["pixel_values"], side)["attention_mask"][sample].argmax())
                prompt = alone.kept[layer][sample] - before
                answers = torch.arange(len(row), len(answered[sample]))
                assert torch.equal(places[sample] - pads, torch.cat([prompt, answers]))

    def test_the_last_row_is_the_last_token_where_padding_is_on_the_left(self, model: Any) -> None:
        inputs = batch(model, MIXED, "left")
        with pruned(model, pruning("attention", "pdrop")) as handle:
            rows = model(**inputs).logits.shape[1]
        assert len({len(places) for places in handle.trace.kept[-1]}) > 1
        last = inputs["input_ids"].shape[1] - 1
        assert [handle.trace.rows(sample, [last]).item() for sample in range(4)] == [rows - 1] * 4

    def test_rows_of_the_output(self, model: Any) -> None:
        inputs = batch(model, MIXED, "right")
        with pruned(model, pruning("attention", "vtw")) as handle:
            model(**inputs)
        last = int(inputs["attention_mask"][1].sum()) - 1
        assert handle.trace.rows(1, [last]).tolist() == [len(handle.trace.kept[-1][1]) - 1]
        image = int((inputs["input_ids"][1] == IMAGE).long().argmax())
        with pytest.raises(UnsupportedCallError, match="they were pruned"):
            handle.trace.rows(1, [image])


class TestEmbeds:
    def test_need_their_ids_once_each(self, model: Any) -> None:
        inputs = batch(model, MIXED)
        from eager_oracle import embeds_of

        embeds = {"inputs_embeds": embeds_of(model, inputs), "attention_mask": inputs["attention_mask"]}
        with pruned(model, pruning("attention", "pdrop")) as handle:
            expected = model(**inputs).logits
            handle.input_ids = inputs["input_ids"]
            assert torch.equal(model(**embeds).logits, expected)
            with pytest.raises(UnsupportedCallError, match=r"set handle.input_ids before each such call"):
                model(**embeds)
            handle.input_ids = inputs["input_ids"][:, 1:]
            with pytest.raises(UnsupportedCallError, match="give the ids of this very call"):
                model(**embeds)
