import pytest
import torch
from torch import Tensor

from distilwhisper.model.whisper import Whisper, WhisperConfig, sinusoids
from searching import rows_of

TINY = WhisperConfig(
    vocab_size=300,
    n_mels=80,
    width=32,
    encoder_layers=2,
    encoder_heads=4,
    encoder_ffn=64,
    decoder_layers=3,
    decoder_heads=4,
    decoder_ffn=64,
    max_frames=50,
    max_tokens=24,
)


@pytest.fixture(scope="module")
def model() -> Whisper:
    torch.manual_seed(0)
    model = Whisper(TINY).double().eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return model.requires_grad_(False)


@pytest.fixture
def mel() -> Tensor:
    return torch.randn(3, 80, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(2))


@pytest.mark.reference
@pytest.mark.parametrize(("n_mels", "vocab_size"), [(80, 300), (128, 301)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_logits_equal_transformers(
    n_mels: int, vocab_size: int, dtype: torch.dtype, tolerance: float, token_ids: Tensor
) -> None:
    from transformers import WhisperConfig as ReferenceConfig
    from transformers import WhisperForConditionalGeneration

    torch.manual_seed(3)
    reference_config = ReferenceConfig(
        vocab_size=vocab_size,
        num_mel_bins=n_mels,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_source_positions=50,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    reference = WhisperForConditionalGeneration(reference_config).to(dtype).eval()
    for parameter in reference.parameters():
        parameter.data.normal_(std=0.3)
    ours = Whisper(WhisperConfig.from_hf(reference_config.to_dict())).to(dtype).eval()
    state = {k.removeprefix("model."): v for k, v in reference.state_dict().items()}
    del state["proj_out.weight"]
    ours.load_state_dict(state)
    mel = torch.randn(3, n_mels, 100, dtype=dtype)
    with torch.no_grad():
        expected = reference(mel, decoder_input_ids=token_ids).logits
        found = ours(mel, token_ids)
    # float32: products are summed in another order, and logits reach a few tens here
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_cached_steps_equal_the_full_pass(model: Whisper, mel: Tensor, token_ids: Tensor) -> None:
    full = model(mel, token_ids)
    cross = model.decoder.cross_cache(model.encoder(mel))
    cache = model.decoder.self_cache(3, capacity=9)
    steps = []
    for piece in token_ids.split([4, 1, 1, 3], dim=1):
        steps.append(model.decoder.project(model.decoder(piece, cross, cache)))
        cache.lengths += piece.shape[1]
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-10, rtol=0)


def test_rows_of_different_lengths_equal_rows_alone(
    model: Whisper, mel: Tensor, token_ids: Tensor
) -> None:
    lengths = torch.tensor([2, 5, 3])
    cross = model.decoder.cross_cache(model.encoder(mel))
    cache = model.decoder.self_cache(3, capacity=12)
    model.decoder(token_ids[:, :5], cross, cache)  # padded on the right by what is not counted
    cache.lengths += lengths
    step = model.decoder(token_ids[:, 5:7], cross, cache)
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat([token_ids[row, :length], token_ids[row, 5:7]])[None]
        row_cross = rows_of(cross, torch.tensor([row]))
        expected = model.decoder(alone, row_cross)[:, -2:]
        torch.testing.assert_close(step[row : row + 1], expected, atol=1e-10, rtol=0)


def test_rolling_a_row_back_forgets_what_was_refused(
    model: Whisper, mel: Tensor, token_ids: Tensor
) -> None:
    cross = model.decoder.cross_cache(model.encoder(mel))
    cache = model.decoder.self_cache(3, capacity=12)
    model.decoder(token_ids[:, :6], cross, cache)
    cache.lengths += torch.tensor([6, 4, 5])  # rows 1 and 2 refuse some
    kept = cache.select(torch.tensor([2, 1]))
    step = model.decoder(token_ids[[2, 1], 6:7], rows_of(cross, torch.tensor([2, 1])), kept)
    expected = model.decoder(
        torch.cat([token_ids[1:2, :4], token_ids[1:2, 6:7]], dim=1),
        rows_of(cross, torch.tensor([1])),
    )[:, -1:]
    torch.testing.assert_close(step[1:2], expected, atol=1e-10, rtol=0)


def test_too_many_tokens_are_refused_with_both_numbers(model: Whisper, mel: Tensor) -> None:
    with pytest.raises(ValueError, match="at most 24 tokens, found 25"):
        model(mel, torch.zeros(3, 25, dtype=torch.long))
    cross = model.decoder.cross_cache(model.encoder(mel))
    cache = model.decoder.self_cache(3, capacity=4)
    with pytest.raises(ValueError, match="at most 4 tokens, found 5"):
        model.decoder(torch.zeros(3, 5, dtype=torch.long), cross, cache)


def test_another_mel_is_refused(model: Whisper) -> None:
    with pytest.raises(ValueError, match="80 mel bins, found 128"):
        model.encoder(torch.zeros(1, 128, 100, dtype=torch.float64))
    with pytest.raises(ValueError, match="at most 100 mel frames, found 102"):
        model.encoder(torch.zeros(1, 80, 102, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bart"}, "model_type 'whisper', found 'bart'"),
        ({"activation_function": "relu"}, "activation_function must be 'gelu', found 'relu'"),
        ({"d_model": None}, "lacks d_model"),
        ({"encoder_attention_heads": 5}, "divide the width: found 5 heads, width 32"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    config = {**TINY.to_hf({}), "model_type": "whisper", **change}
    config = {k: v for k, v in config.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        WhisperConfig.from_hf(config)


def test_config_round_trip() -> None:
    config = TINY.to_hf({"model_type": "whisper", "begin_suppress_tokens": [1]})
    assert WhisperConfig.from_hf(config) == TINY
    assert config["begin_suppress_tokens"] == [1]


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [  # table 1 of arXiv:2212.04356 and table 5 of arXiv:2311.00430
        ("tiny.en", (51864, 80, 384, 4, 6, 1536, 4, 6, 1536), 38),
        ("base", (51865, 80, 512, 6, 8, 2048, 6, 8, 2048), 73),
        ("large-v2", (51865, 80, 1280, 32, 20, 5120, 32, 20, 5120), 1543),
        ("large-v3", (51866, 128, 1280, 32, 20, 5120, 32, 20, 5120), 1543),
        ("large-v3-turbo", (51866, 128, 1280, 32, 20, 5120, 4, 20, 5120), 809),
        ("distil-large-v2", (51865, 80, 1280, 32, 20, 5120, 2, 20, 5120), 756),
    ],
)
def test_published_sizes(name: str, sizes: tuple[int, ...], millions: int) -> None:
    with torch.device("meta"):
        assert round(Whisper(WhisperConfig(*sizes)).n_parameters() / 1e6) == millions, name


def test_sinusoids_are_the_first_of_whisper() -> None:
    table = sinusoids(1500, 384)
    torch.testing.assert_close(table[0], torch.cat([torch.zeros(192), torch.ones(192)]))
    torch.testing.assert_close(table[1, 0], torch.tensor(1.0).sin())
