"""Annotated types of settings, and the names that settings accept besides file names."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from atelier.core.errors import did_you_mean, printable

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sharing = Literal["public", "all", "none"]
DecayRate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
GeneratorBlocks = Literal["plain", "upsample", "residual"]
DiscriminatorBlocks = Literal["plain", "residual"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
StartFrom = Annotated[dict[Name, Annotated[str, Field(min_length=1)]], Field(max_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$", description="64 hexadecimal digits")]
KaggleHandle = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/versions/[1-9][0-9]*)?$",
        description="owner/name or owner/name/versions/3",
    ),
]
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$", description="auto, cpu, cuda, cuda:1 or mps"),
]
Launcher = Annotated[
    str,
    Field(
        pattern=r"^(python|torchrun( --(nproc-per-node=([1-9][0-9]*|gpu|cpu|auto)"
        r"|(nnodes|node-rank|master-port)=[0-9]+|master-addr=[A-Za-z0-9.:_-]+))+)$",
        description="python, or torchrun with options, for example torchrun --nproc-per-node=2",
    ),
]
DaskAddress = Annotated[
    str,
    Field(
        pattern=r"^((tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})?$",
        description="empty, or a Dask scheduler's address, for example tcp://host:8786",
    ),
]
ExperimentName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^/:.][^/:]*$",
        description="a name without / and : that starts with no dot",
    ),
]
RegisteredModelName = Annotated[
    str,
    Field(max_length=200, pattern=r"^[^/:'\"`]*$", description="a name without / and : and quotes"),
]

STYLES = ("night_sky", "wave", "stained_glass")
"""The built-in styles, which the program draws."""
WEIGHTS = ("vgg19_caffe", "imagenet", "random")
"""Values of ``stylize.weights`` that are not files."""
NETWORKS = (
    *("alexnet", "convnext_tiny", "convnext_base", "efficientnet_b0", "mobilenet_v3_large"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    *("vgg11", "vgg13", "vgg16", "vgg19"),
)
"""torchvision networks, trained on ImageNet, that ``evaluate.features`` accepts."""


class Section(BaseModel):
    """A frozen section of settings that rejects unknown keys and wrong types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def section_model(model: type[Section], key: str) -> type[Section] | None:
    """Return the model of a nested section; ``None`` for a plain value or an unknown key."""
    field = model.model_fields.get(key)
    nested = field.annotation if field else None
    return nested if isinstance(nested, type) and issubclass(nested, Section) else None


def is_weights_file(name: str) -> bool:
    """Return whether a name has the extension of a file of weights."""
    return name.endswith((".pth", ".pt", ".safetensors"))


def _validate_file_name(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError("it must be a name inside its folder under data/, for example wave.jpg")
    return name


def _validate_memory(
    value: object, validate: ValidatorFunctionWrapHandler
) -> float | Literal["auto"]:
    try:
        limit: float | Literal["auto"] = validate(value)
    except ValidationError:
        # Each type of a union has an error of its own, which is not true of the others.
        message = "Input should be auto or a number of at least 0"
        raise PydanticCustomError("memory_limit", message) from None
    return limit


def _validate_extractor(name: str) -> str:
    if is_weights_file(name):
        return _validate_file_name(name)
    known = ("vgg19_caffe", "random", "inception", *NETWORKS)
    if name not in known:
        raise ValueError(
            f"there is no extractor {printable(name)}{did_you_mean(name, known)}; use"
            " vgg19_caffe, random, inception, a torchvision network (for example resnet50), or a"
            " .pth or .safetensors file in data/weights/"
        )
    return name


MemoryLimit = Annotated[Weight | Literal["auto"], WrapValidator(_validate_memory)]
FileName = Annotated[str, AfterValidator(_validate_file_name)]
ExtractorName = Annotated[str, AfterValidator(_validate_extractor)]
