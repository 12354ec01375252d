"""Where visual tokens lie: the grids that calls and configurations tell, and a layout where they do not."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlavaConfig, LlavaNextConfig, PixtralVisionConfig
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image
from zoo import ARCHITECTURES, IMAGE, ONE, batch, model_for
from zoo_models import VIDEO

from pruners.families import ROWS, describe
from pruners.grids import Layout, Places, token_places
from pruners.pictures import Picture, Pictures, by_patch_grid, llava, llava_next

UNKNOWN = Layout({}, {}, None)


def places_for(name: str, inputs: dict[str, Tensor]) -> tuple[Places, Tensor]:
    family = describe(model_for(name))
    visual = torch.isin(inputs["input_ids"], torch.tensor(family.traits.visual_token_ids))
    return token_places(inputs["input_ids"], visual, family.layout(inputs)), visual.sum(1)


def grids_of(places: Places, sample: int, tokens: int) -> list[tuple[int, int]]:
    """Rows and columns of a sample's pictures, newlines left out, by the order of their first tokens."""
    numbers = places.image[sample, :tokens].tolist()
    firsts = [numbers.index(number) for number in dict.fromkeys(numbers)]
    sizes = [(2 * places.centre[sample, first] + 1).int().tolist() for first in firsts]
    return [(rows, columns) for rows, columns in sizes]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_token_has_one_place_of_its_own(name: str) -> None:
    places, counts = places_for(name, batch(name, ARCHITECTURES[name].mixed))
    for sample, tokens in enumerate(counts.tolist()):
        found = torch.cat([places.image[sample, :, None], places.grid[sample]], 1)[:tokens].tolist()
        assert len(set(map(tuple, found))) == tokens
        assert sorted(set(places.image[sample, :tokens].tolist())) == list(
            range(len(grids_of(places, sample, tokens)))
        )
        for image, row, column in found:
            mine = places.image[sample, :tokens] == image
            rows, columns = (2 * places.centre[sample, :tokens][mine][0] + 1).tolist()
            # one more column where newlines stand behind the rows
            assert 0 <= row < rows
            assert 0 <= column <= columns


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llava-llama", [(4, 4)]),
        ("llava-next", [(2, 2), (2, 4)]),
        ("llava-onevision", [(2, 2), (2, 4)]),
        ("llava-onevision-video", [(1, 1)] * 5),
        ("llava-next-video", [(2, 2)] * 3),
        ("video-llava", [(1, 1), (2, 2)] * 3),
        ("internvl-qwen2", [(4, 4)]),
        ("qwen2-vl", [(2, 4)]),
        ("qwen2.5-vl-video", [(2, 4)] * 2),
        ("qwen3-vl", [(2, 4)]),
        ("glm4v", [(2, 4)]),
        ("idefics3", [(4, 4)]),
        ("smolvlm", [(4, 4)]),
        ("gemma3", [(4, 4)]),
        ("mistral3", [(3, 3)]),
        ("paligemma", [(4, 4)]),
        ("fast-vlm", [(4, 4)]),
        ("aya-vision", [(4, 4)]),
        ("perception-lm", [(4, 4)]),
        ("ovis2", [(4, 4)]),
    ],
)
def test_a_call_tells_rows_and_columns(name: str, expected: list[tuple[int, int]]) -> None:
    places, counts = places_for(name, batch(name, ONE))
    assert grids_of(places, 0, int(counts[0])) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2-vl", [[(2, 4)], [(2, 3), (2, 4)], []]),
        ("mistral3", [[(3, 3)], [(2, 3), (3, 3)], []]),
        ("llava-next", [[(2, 2), (2, 4)], [(2, 2), (4, 4), (2, 2), (4, 2)], []]),
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_samples_have_pictures_of_their_own(
    name: str, expected: list[list[tuple[int, int]]], side: str
) -> None:
    places, counts = places_for(name, batch(name, ARCHITECTURES[name].mixed, side))
    assert [grids_of(places, sample, count) for sample, count in enumerate(counts.tolist())] == expected


@pytest.mark.parametrize("size", [(16, 32), (9, 32), (31, 20), (64, 40)])
@pytest.mark.parametrize("name", ["llava-next", "llava-onevision"])
def test_newlines_lie_where_the_model_puts_them(name: str, size: tuple[int, int]) -> None:
    model, sizes = model_for(name), torch.tensor([size])
    with torch.no_grad():
        pixels = torch.randn(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        features = model.model.get_image_features(pixel_values=pixels, image_sizes=sizes).pooler_output[0]
    ids = torch.full((1, len(features)), IMAGE)
    places = token_places(ids, ids == IMAGE, describe(model).layout({"image_sizes": sizes}))
    newlines = (features == model.model.image_newline).all(1)
    assert newlines.any()
    assert torch.equal(newlines, places.grid[0, :, 1] > 2 * places.centre[0, :, 1])


@given(st.integers(30, 3000), st.integers(30, 3000))
def test_padding_is_left_out_as_the_model_leaves_it_out(height: int, width: int) -> None:
    config = LlavaNextConfig()
    rows, columns = get_anyres_image_grid_shape([height, width], config.image_grid_pinpoints, 336)
    canvas = torch.empty(1, rows * 24, columns * 24, device="meta")
    expected = unpad_image(canvas, (height, width)).shape[1:]
    found = llava_next(config, {"image_sizes": [(height, width)]})
    assert found == {config.image_token_id: [Picture(24, 24), Picture(*expected, newlines=True)]}


def test_a_large_image_is_made_smaller_as_the_model_makes_it() -> None:
    """Told to hold one tile, the model interpolates, and the newlines stay behind the rows."""
    model, sizes = model_for("llava-onevision"), torch.tensor([[32, 32]])
    pixels = torch.randn(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"image_sizes": sizes, "vision_aspect_ratio": "anyres_max_2"}
    with torch.no_grad():
        features = model.model.get_image_features(pixel_values=pixels, **options).pooler_output[0]
    ids = torch.full((1, len(features)), IMAGE)
    places = token_places(ids, ids == IMAGE, describe(model).layout(options))
    assert grids_of(places, 0, len(features)) == [(2, 2), (2, 2)]
    newlines = (features == model.model.image_newline).all(1)
    assert torch.equal(newlines, places.grid[0, :, 1] > 1)


def test_several_images_of_onevision_are_not_tiled() -> None:
    model = model_for("llava-onevision")
    options = {"image_sizes": torch.tensor([[32, 32]] * 2), "batch_num_images": torch.tensor([2])}
    pixels = torch.randn(2, 1, 3, 16, 16)
    with torch.no_grad():
        features = model.model.get_image_features(pixel_values=pixels, **options).pooler_output
    assert [len(part) for part in features] == [5, 5]
    pictures = describe(model).layout(options).pictures[IMAGE]
    assert pictures == [Picture(2, 2), Picture(1, 1)] * 2


def test_a_class_token_stands_before_its_image() -> None:
    config = LlavaConfig(vision_feature_select_strategy="full", image_token_index=IMAGE)
    config.vision_config.image_size, config.vision_config.patch_size = 32, 8
    found = llava(config, {"pixel_values": torch.empty(2, 3, 32, 32)})
    assert found == {IMAGE: [Picture(1, 1), Picture(4, 4)] * 2}


def test_pixtral_in_llava_tells_sizes() -> None:
    config = LlavaConfig(vision_config=PixtralVisionConfig(patch_size=8), image_token_index=IMAGE)
    assert llava(config, {"image_sizes": torch.tensor([[16, 40]])}) == {IMAGE: [Picture(2, 5)]}
    assert llava(config, {"pixel_values": torch.empty(1, 3, 16, 40)}) == {}


def test_rows_that_a_break_token_parts_are_one_picture() -> None:
    row = [IMAGE] * 5 + [9]
    ids = torch.tensor([[1, *row * 3, 2]])
    layout = Layout({IMAGE: [Picture(3, 5)]}, {}, None)
    places = token_places(ids, ids == IMAGE, layout)
    assert grids_of(places, 0, 15) == [(3, 5)]
    assert places.grid[0, 5].tolist() == [1, 0]


def test_images_and_videos_of_one_sample_are_told_apart() -> None:
    config = model_for("qwen2.5-vl").config
    grids = {"image_grid_thw": torch.tensor([[1, 4, 6]]), "video_grid_thw": torch.tensor([[2, 4, 8]])}
    found = by_patch_grid(config, grids)
    assert found == {IMAGE: [Picture(2, 3)], VIDEO: [Picture(2, 4)] * 2}
    ids = torch.tensor([[1, *[VIDEO] * 8, 5, *[IMAGE] * 6, 5, *[VIDEO] * 8]])
    places = token_places(ids, ids > 50, Layout(found, {}, None))
    assert grids_of(places, 0, 22) == [(2, 4), (2, 3), (2, 4)]


def test_glm_videos_stand_behind_the_placeholder_of_images() -> None:
    config, find = model_for("glm4v").config, ROWS["glm4v"].pictures
    video: dict[str, Any] = {"video_grid_thw": torch.tensor([[2, 4, 8]])}
    assert find(config, video) == {IMAGE: [Picture(2, 4)] * 2}
    assert find(config, video | {"image_grid_thw": torch.tensor([[1, 4, 6]])}) == {}


def test_images_side_by_side_have_grids_of_their_own() -> None:
    ids = torch.tensor([[0, *[1] * 12, 0, *[1] * 6], [0, *[1] * 6, *[0] * 13]])
    places = token_places(ids, ids.bool(), Layout({}, {}, (2, 3)))
    assert places.image[0].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert places.image[1, :6].tolist() == [0] * 6
    assert places.grid[0, 6:9].tolist() == [[0, 0], [0, 1], [0, 2]]
    assert places.centre[0, 0].tolist() == [0.5, 1.0]
    assert places.grid[1, :6].tolist() == places.grid[0, :6].tolist()


def test_images_of_unknown_size_are_laid_out_squarely() -> None:
    ids = torch.ones(1, 12, dtype=torch.long)
    places = token_places(ids, ids.bool(), Layout({}, {}, (5, 5)))
    assert places.grid[0, -1].tolist() == [2, 3]
    assert places.centre[0, 0].tolist() == [1.0, 1.5]


@pytest.mark.parametrize("told", [{}, {1: [Picture(2, 5)]}])
def test_what_does_not_add_up_is_not_believed(told: Pictures) -> None:
    ids = torch.tensor([[1] * 9])
    assert grids_of(token_places(ids, ids.bool(), UNKNOWN._replace(pictures=told)), 0, 9) == [(3, 3)]


def test_equal_tiles_share_a_run() -> None:
    ids = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
    places = token_places(ids, ids.bool(), UNKNOWN._replace(tiles={1: 3}))
    assert grids_of(places, 0, 8) == [(2, 2)] * 2
    # five do not divide the tokens, and two of six tokens fill no run
    for tiles in (5, 2):
        places = token_places(ids, ids.bool(), UNKNOWN._replace(tiles={1: tiles}))
        assert grids_of(places, 0, 8) == [(2, 4)]


def test_a_row_that_ends_with_an_image_does_not_touch_the_next() -> None:
    ids = torch.ones(2, 4, dtype=torch.long)
    places = token_places(ids, ids.bool(), UNKNOWN)
    assert [grids_of(places, sample, 4) for sample in (0, 1)] == [[(2, 2)], [(2, 2)]]


def test_a_batch_without_visual_tokens_has_no_places() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert token_places(ids, ids.bool(), UNKNOWN).grid.shape == (2, 0, 2)
