"""
Whether a Keras model's saved configuration may carry code. Pure.

What is loaded from it is made by name: a class of Keras, or one that somebody brings along; some of
Keras' own hold Python bytecode, or load something else from where they are told to. So everything
counts as code that is not one of the classes below, which do neither.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from touchstone.core.documents import shorten

MAX_DEPTH: Final = 100
MAX_VALUES: Final = 500_000
"""Far beyond any real model: what is deeper or larger was made to be expensive."""

_PER_DIMENSION = (
    *("AdaptiveAveragePooling", "AdaptiveMaxPooling", "AveragePooling", "AvgPool", "Conv"),
    *("ConvLSTM", "Convolution", "Cropping", "DepthwiseConv", "GlobalAveragePooling"),
    *("GlobalAvgPool", "GlobalMaxPool", "GlobalMaxPooling", "MaxPool", "MaxPooling"),
    *("SeparableConv", "SeparableConvolution", "SpatialDropout", "UpSampling", "ZeroPadding"),
)

HARMLESS: Final = frozenset(
    {
        # Models, and what Keras writes of tensors, arrays and precision.
        *("Functional", "Model", "Sequential"),
        *("DTypePolicy", "FloatDTypePolicy", "Policy", "QuantizedDTypePolicy", "SeedGenerator"),
        *("__ellipsis__", "__keras_tensor__", "__numpy__", "__tensor__"),
        # Layers.
        *(f"{name}{number}D" for name in _PER_DIMENSION for number in (1, 2, 3)),
        *(f"{name}{number}DTranspose" for name in ("Conv", "Convolution") for number in (1, 2, 3)),
        *("Activation", "ActivityRegularization", "Add", "AdditiveAttention", "AlphaDropout"),
        *("Attention", "Average", "BatchNormalization", "Bidirectional", "CategoryEncoding"),
        *("CenterCrop", "Concatenate", "Dense", "Discretization", "Dot", "Dropout", "ELU"),
        *("EinsumDense", "Embedding", "Flatten", "GRU", "GRUCell", "GaussianDropout"),
        *("GaussianNoise", "GroupNormalization", "GroupQueryAttention", "HashedCrossing"),
        *("Hashing", "Identity", "InputLayer", "LSTM", "LSTMCell", "LayerNormalization"),
        *("LeakyReLU", "Masking", "Maximum", "Minimum", "MultiHeadAttention", "Multiply"),
        *("Normalization", "PReLU", "Permute", "RMSNormalization", "RNN", "ReLU"),
        *("RepeatVector", "Rescaling", "Reshape", "Resizing", "ReversibleEmbedding"),
        *("SimpleRNN", "SimpleRNNCell", "Softmax", "SpectralNormalization"),
        *("StackedRNNCells", "Subtract", "TimeDistributed", "UnitNormalization"),
        # Initializers, regularizers, constraints.
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform"),
        *("IdentityInitializer", "LecunNormal", "LecunUniform", "Ones", "Orthogonal"),
        *("OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal"),
        *("VarianceScaling", "Zeros", "L1", "L1L2", "L2", "OrthogonalRegularizer"),
        *("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
        # Optimizers and their schedules.
        *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion"),
        *("LossScaleOptimizer", "Muon", "Nadam", "RMSprop", "SGD", "ScheduleFreeAdamW"),
        *("CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay"),
        *("PiecewiseConstantDecay", "PolynomialDecay"),
        # Losses and metrics.
        *("AUC", "Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "BinaryFocalCrossentropy"),
        *("BinaryIoU", "CTC", "CategoricalAccuracy", "CategoricalCrossentropy"),
        *("CategoricalFocalCrossentropy", "CategoricalHinge", "Circle", "ConcordanceCorrelation"),
        *("CosineSimilarity", "Dice", "F1Score", "FBetaScore", "FalseNegatives"),
        *("FalsePositives", "Hinge", "Huber", "IoU", "KLDivergence", "LogCosh", "LogCoshError"),
        *("Mean", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanIoU"),
        *("MeanSquaredError", "MeanSquaredLogarithmicError", "OneHotIoU", "OneHotMeanIoU"),
        *("PearsonCorrelation", "Poisson", "Precision", "PrecisionAtRecall", "R2Score", "Recall"),
        *("RecallAtPrecision", "RootMeanSquaredError", "SensitivityAtSpecificity"),
        *("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy"),
        *("SparseTopKCategoricalAccuracy", "SpecificityAtSensitivity", "SquaredHinge", "Sum"),
        *("TopKCategoricalAccuracy", "TrueNegatives", "TruePositives", "Tversky"),
    }
)
"""Classes of Keras that hold no code and load nothing."""

_KERAS = re.compile(r"(tensorflow\.|tf\.|tf_)?keras(\.[A-Za-z_.]+)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]{40,}")
_CODE_BYTES = (b"\xe3", b"c")
"""What Python's own format of a code object begins with."""


@dataclass(frozen=True, kw_only=True)
class CodeFinding:
    """
    What was found in a model's file.

    :param may_carry_code: Whether loading it may run code that came with it; also if nobody could
        tell.
    :param code_reason: Why, in a few words; ``None`` if not.
    """

    may_carry_code: bool
    code_reason: str | None = None


def find_code(config: object) -> CodeFinding:
    """
    Look through a model's configuration, as its file has it.

    :param config: The JSON values of ``model_config``, or of ``training_config``.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        return CodeFinding(may_carry_code=True, code_reason="it is no configuration of a model")
    return look_through(config)


def look_through(config: object) -> CodeFinding:
    """Look through any part of a configuration."""
    for number, (place, value) in enumerate(_walk(config), start=1):
        if number > MAX_VALUES or len(place) > MAX_DEPTH:
            reason: str | None = "its configuration is too large, or nested too deeply"
        elif isinstance(value, dict):
            reason = _find_reason(place, value)
        else:
            reason = _find_bytecode(value)
        if reason is not None:
            return CodeFinding(may_carry_code=True, code_reason=reason)
    return CodeFinding(may_carry_code=False)


def _walk(config: object) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Yield every value with its place; without recursion, however deep it is."""
    left: list[tuple[tuple[str | int, ...], object]] = [((), config)]
    while left:
        place, value = left.pop()
        yield place, value
        if len(place) > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            left += [((*place, str(key)[:100]), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            left += [((*place, key), item) for key, item in reversed(list(enumerate(value)))]


def _find_reason(place: tuple[str | int, ...], value: Mapping[str, object]) -> str | None:
    what = _name(place)
    name = value.get("class_name")
    if name is not None and (not isinstance(name, str) or name not in HARMLESS):
        return f"{what} is a {shorten(name)}"
    module = value.get("module")
    if module is not None and (not isinstance(module, str) or not _KERAS.fullmatch(module)):
        return f"{what} is of the module {shorten(module)}"
    registered = value.get("registered_name")
    if registered is not None and registered not in HARMLESS:
        return f"{what} is registered as {shorten(registered)}"
    code = value.get("value")
    if "code" in value or (isinstance(code, list) and code and isinstance(code[0], str)):
        return f"{what} holds a function"
    return None


def _find_bytecode(value: object) -> str | None:
    if not isinstance(value, str) or not _BASE64.fullmatch(value):
        return None
    try:
        head = base64.b64decode("".join(value[:40].split())[:4])
    except (binascii.Error, ValueError):
        return None
    return "it holds what looks like a compiled function" if head.startswith(_CODE_BYTES) else None


def _name(place: tuple[str | int, ...]) -> str:
    """Return the nearest layer of a place, as people count: from 1."""
    for key, following in zip(reversed(place[:-1]), reversed(place[1:]), strict=True):
        if key == "layers" and isinstance(following, int):
            return f"layer {following + 1}"
    return str(place[-1]) if place else "the model"
