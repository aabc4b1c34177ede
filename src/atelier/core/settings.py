"""The typed, frozen settings of every stage, as ``params.yaml`` holds them.

No value stands here, only types and ranges: ``params.yaml`` is the one place for values,
and this module the one place that says what a value may be. A class is a section, a field
is a key, and a field's description is what a message tells the user when its value is off.
"""

import difflib
import reprlib
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from atelier.core.errors import AtelierError

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DecayRate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError("it must be a name inside its folder under data/, such as wave.jpg")
    return name


FileName = Annotated[str, AfterValidator(_inside)]

STYLES = ("night_sky", "wave", "stained_glass")
"""The built-in styles, which the program draws."""
WEIGHTS = ("vgg19_caffe", "imagenet", "random")
"""VGG19s that ``stylize.weights`` takes besides files."""
NETWORKS = (
    *("alexnet", "convnext_tiny", "convnext_base", "efficientnet_b0", "mobilenet_v3_large"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    *("vgg11", "vgg13", "vgg16", "vgg19"),
)
"""torchvision's networks that ``evaluate.features`` takes, learned on ImageNet."""


def is_file_of_weights(name: str) -> bool:
    """Whether a name is that of a file of weights, by its ending."""
    return name.endswith((".pth", ".pt", ".safetensors"))


def _extractor(name: str) -> str:
    if is_file_of_weights(name):
        return _inside(name)
    known = ("vgg19_caffe", "random", "inception", *NETWORKS)
    if name not in known:
        raise ValueError(
            f"there is no extractor {_printable_value(name)}{nearest(name, known)}; it takes"
            " vgg19_caffe, random, inception, a network of torchvision such as resnet50, or a .pth"
            " or .safetensors file of data/weights/"
        )
    return name


ExtractorName = Annotated[str, AfterValidator(_extractor)]


class Section(BaseModel):
    """A frozen section of settings that refuses unknown keys and wrong types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class SampleSettings(Section):
    """The faces that the program draws itself."""

    count: Annotated[int, Field(ge=16, le=100_000)]
    seed: Seed


class ArchiveSettings(Section):
    """A zip or tar archive of pictures, by path or by http(s) address."""

    location: str
    sha256: Annotated[
        str, Field(pattern=r"^([0-9a-fA-F]{64})?$", description="64 hexadecimal digits")
    ]


class KaggleSettings(Section):
    """A Kaggle dataset, as ``owner/name`` or ``owner/name/versions/3``."""

    handle: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/versions/[1-9][0-9]*)?$",
            description="owner/name or owner/name/versions/3",
        ),
    ]


class TorchvisionSettings(Section):
    """One of torchvision's datasets; ``root`` and ``mirror`` may be empty."""

    dataset: Literal["MNIST", "FashionMNIST", "CIFAR10", "CelebA"]
    split: Literal["train", "test", "all"]
    root: str
    mirror: str


class DownloadSettings(Section):
    """Where raw pictures come from."""

    source: Literal["sample", "folder", "archive", "kaggle", "torchvision"]
    sample: SampleSettings
    folders: dict[Name, Annotated[str, Field(min_length=1)]]
    archive: ArchiveSettings
    kaggle: KaggleSettings
    torchvision: TorchvisionSettings

    @model_validator(mode="after")
    def _source_is_named(self) -> "DownloadSettings":
        if self.source == "folder" and not self.folders:
            raise ValueError(
                "source: folder needs at least one entry under folders, such as"
                " folders: {faces: /home/me/faces}"
            )
        if self.source != "folder" and self.folders:
            raise ValueError(
                f"folders is for source: folder, but source is {self.source};"
                " empty it ({}) or change source"
            )
        if self.source == "archive" and not self.archive.location:
            raise ValueError(
                "source: archive needs archive.location, the path or address of a zip or tar file"
            )
        return self


class ConvertSettings(Section):
    """How every readable picture becomes one row of an array.

    ``validation`` is the share of the rows that measures epochs, ``test`` the share that only the
    evaluate stage uses. Training sees neither.
    """

    image_size: Literal[16, 28, 32, 64, 128, 256]
    color: Literal["rgb", "grey"]
    resize_mode: Literal["crop", "stretch", "pad"]
    max_megapixels: Count
    validation_fraction: Fraction
    test_fraction: Fraction

    @property
    def channels(self) -> int:
        """3 for ``rgb``, 1 for ``grey``."""
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="before")
    @classmethod
    def _held_out_is_replaced(cls, values: Any) -> Any:
        if isinstance(values, dict) and "held_out" in values:
            raise ValueError(
                "held_out was replaced by two settings; write validation: 0.1 and test: 0.1"
                " instead, or 0.0 for both to train on all images"
            )
        return values

    @model_validator(mode="after")
    def _some_are_for_training(self) -> "ConvertSettings":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} and test_fraction is"
                f" {self.test_fraction}, which leaves no image"
                " for training; set them to 0.1 each"
            )
        return self


class NetworkSettings(Section):
    """What the generator and the discriminator look like."""

    network: Literal["dcgan", "mlp"]
    latent_size: Annotated[int, Field(ge=1, le=65_536)]
    latent_distribution: Literal["normal", "uniform"]
    generator_channels: Annotated[int, Field(ge=1, le=4096)]
    discriminator_channels: Annotated[int, Field(ge=1, le=4096)]
    relu_before_norm: bool
    discriminator_norm: bool
    discriminator_padding: Literal[0, 1]
    discriminator_head: Literal["convolution", "linear"]
    head_size: Annotated[int, Field(ge=1, le=65_536)]
    dropout: DecayRate
    generator_blocks: Literal["plain", "upsample", "residual"]
    discriminator_blocks: Literal["plain", "residual"]
    spectral_norm: bool

    @model_validator(mode="after")
    def _blocks_fit(self) -> "NetworkSettings":
        blocks = (self.generator_blocks, self.discriminator_blocks)
        if self.network == "mlp" and blocks != ("plain", "plain"):
            raise ValueError(
                "network: mlp has fully connected layers; set generator_blocks and"
                " discriminator_blocks to plain, or network to dcgan"
            )
        if self.network == "dcgan" and self.dropout:
            raise ValueError("dropout is of network: mlp; set it to 0 for dcgan")
        if self.network == "dcgan" and self.spectral_norm and self.discriminator_norm:
            raise ValueError(
                "batch normalisation undoes what spectral_norm divides by; set discriminator_norm"
                " to false"
            )
        if self.discriminator_blocks == "residual" and self.discriminator_norm:
            raise ValueError(
                "discriminator_blocks: residual has no batch normalisation; set"
                " discriminator_norm to false"
            )
        return self


class TrainSettings(NetworkSettings):
    """The networks and how they are trained; ``docs/quality.md`` says what is good for what."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: LearningRate
    discriminator_lr: Weight
    schedule: Literal["constant", "linear", "cosine"]
    beta1: DecayRate
    beta2: DecayRate
    weight_decay: Weight
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    grad_clip: Weight
    ema_decay: DecayRate
    loss: Literal["bce", "hinge", "lsgan", "wgan", "relativistic"]
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    gradient_penalty: Weight
    r1: Weight
    r2: Weight
    penalty_interval: Count
    augment: list[Literal["color", "translation", "cutout"]]
    horizontal_flip: bool
    conditional: bool
    fixed_samples: Count
    sample_every_steps: Annotated[int, Field(ge=0)]
    kid_every_epochs: Annotated[int, Field(ge=0)]
    kid_samples: Annotated[int, Field(ge=16)]
    kid_features: ExtractorName
    select_model: Literal["last", "best"]
    seed: Seed

    @property
    def has_penalty(self) -> bool:
        """Whether the discriminator's gradient is penalised."""
        return max(self.gradient_penalty, self.r1, self.r2) > 0

    @model_validator(mode="after")
    def _losses_fit(self) -> "TrainSettings":
        if self.label_smoothing and self.loss != "bce":
            raise ValueError(f"label_smoothing is of loss: bce; set it to 0 for {self.loss}")
        if self.loss == "wgan" and not (self.has_penalty or self.spectral_norm):
            raise ValueError(
                "loss: wasserstein needs a smooth discriminator; set gradient_penalty to 10, or"
                " spectral_norm to true"
            )
        if self.penalty_interval > 1 and not self.has_penalty:
            raise ValueError(
                "penalty_interval has no penalty to apply; set it to 1, or one of gradient_penalty, r1"
                " and r2 above 0"
            )
        if self.has_penalty and self.network == "dcgan" and self.discriminator_norm:
            raise ValueError(
                "gradient_penalty, r1 and r2 look at each picture by itself, which batch"
                " normalisation mixes with others; set discriminator_norm to false"
            )
        return self

    @model_validator(mode="after")
    def _the_best_is_known(self) -> "TrainSettings":
        if self.select_model == "best" and not self.kid_every_epochs:
            raise ValueError(
                "select_model: best needs measured epochs; set kid_every_epochs to 1 or more"
            )
        if is_file_of_weights(self.kid_features):
            # Else each new file in data/weights would make a training out of date.
            raise ValueError(
                "kid_features takes no file of weights; set it to random, inception or a network"
                " of torchvision, and evaluate.features to the file"
            )
        return self


class EvaluateSettings(Section):
    """How generated pictures are compared with real ones.

    ``features`` is what looks at them: ``random`` filters, FID's ``inception``, one of
    torchvision's networks, or a file of ``data/weights/`` that holds a VGG19. ``reference`` is what
    they are compared with: ``test``, at most ``samples`` images that training never sees, or
    ``training``, all images that it learns from, as in the literature.
    """

    samples: Annotated[int, Field(ge=16)]
    reference: Literal["test", "training"]
    features: ExtractorName
    epochs: Annotated[int, Field(ge=0)]
    nearest_neighbor_pool: Count
    seed: Seed


class RenderSettings(Section):
    """Montages, the film and the report page."""

    columns: Annotated[int, Field(ge=1, le=64)]
    tile_pixels: Annotated[int, Field(ge=8, le=512)]
    montage_every_epochs: Count
    fps: Annotated[float, Field(gt=0, le=50)]


class StylizeSettings(Section):
    """Neural style transfer: what is painted, how it is measured, how it is optimised.

    Layers are positions in ``torchvision.models.vgg19().features``. A picture or style is
    a file of ``data/pictures/``, or the word ``generated`` (faces of the trained generator)
    or one of the built-in styles; weights are ``vgg19_caffe``, ``imagenet``, ``random`` or a file
    of ``data/weights/``. ``auto`` precision is bfloat16 where the processor multiplies it itself.
    """

    contents: Annotated[list[FileName], Field(min_length=1)]
    generated_count: Annotated[int, Field(ge=1, le=64)]
    styles: Annotated[list[FileName], Field(min_length=1)]
    pairing: Literal["product", "cycle"]
    style_weights: list[Weight]
    style_masks: list[FileName]
    style_scale: Annotated[float, Field(ge=0.1, le=10)]
    preserve_color: Literal["none", "luminance", "histogram"]
    style_strength: Annotated[float, Field(ge=0, le=1)]
    # Not `size`: DVC's run cache leaves parameters of that name out of what tells runs apart.
    image_size: Annotated[int, Field(ge=32, le=16_384)]
    memory_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    weights: FileName
    preprocessing: Literal["torchvision", "caffe"]
    pooling: Literal["max", "average", "l2"]
    padding: Literal["zeros", "replicate"]
    style_layers: dict[Annotated[int, Field(ge=0, le=35)], Weight]
    style_loss: Literal["gram", "moments"]
    content_layers: dict[Annotated[int, Field(ge=0, le=35)], Weight]
    tv_weight: Weight
    init: Literal["content", "style", "noise"]
    clamp_to_range: bool
    pyramid_levels: Annotated[int, Field(ge=1, le=16)]
    optimizer: Literal["lbfgs", "adam", "spectral_lbfgs"]
    lr: LearningRate
    iterate_averaging: DecayRate
    iterations: Count
    precision: Literal["fp32", "bf16", "auto"]
    save_intermediates: Annotated[int, Field(ge=0, le=1000)]
    gif: bool
    seed: Seed

    def pixel_convention(self) -> Literal["torchvision", "caffe"]:
        """Return the preprocessing that learned weights belong to; for others it is a setting."""
        if self.weights == "vgg19_caffe":
            return "caffe"
        return "torchvision" if self.weights == "imagenet" else self.preprocessing

    @model_validator(mode="after")
    def _something_to_match(self) -> "StylizeSettings":
        if not self.style_layers:
            raise ValueError("style_layers needs at least one layer, such as {1: 1.0}")
        if not any([*self.style_layers.values(), *self.content_layers.values()]):
            raise ValueError(
                "one of style_layers and content_layers needs a weight above 0, such as {1: 1.0}"
            )
        if self.optimizer == "adam" and self.lr > 0.5:
            raise ValueError(
                f"lr is {self.lr}, a step that adam cannot paint with (pixels go from 0 to 1);"
                " set it to about 0.02"
            )
        if self.iterate_averaging and self.optimizer != "adam":
            raise ValueError(
                f"iterate_averaging is {self.iterate_averaging}, but only adam averages; set it to 0, or"
                " optimizer to adam with an lr of 0.02"
            )
        if self.gif and not self.save_intermediates:
            raise ValueError(
                "gif needs intermediate images, but save_intermediates is 0; set it to about 24"
            )
        if not self.clamp_to_range and (self.style_masks or self.preserve_color == "luminance"):
            raise ValueError(
                "clamp_to_range is false, but style_masks and preserve_color: luminance need it;"
                " set it to true"
            )
        return self

    @model_validator(mode="after")
    def _styles_go_together(self) -> "StylizeSettings":
        for name, given in (
            ("style_weights", self.style_weights), ("style_masks", self.style_masks)
        ):  # fmt: skip
            if given and self.pairing == "cycle":
                raise ValueError(
                    f"{name} joins all styles in every painting, but pairing is each; set pairing"
                    f" to all, or {name} to []"
                )
            if given and len(given) != len(self.styles):
                raise ValueError(
                    f"{name} is a list of {len(given)}, but the number of styles is"
                    f" {len(self.styles)}; give one for each"
                )
        if self.style_weights and not any(self.style_weights):
            raise ValueError("one of style_weights needs to be above 0, such as [1.0, 1.0]")
        return self


class RuntimeSettings(Section):
    """What changes no result: no stage depends on this section."""

    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$", description="auto, cpu, cuda, cuda:1 or mps"
        ),
    ]
    launcher: Annotated[
        str,
        Field(
            pattern=r"^(python|torchrun( --(nproc-per-node=([1-9][0-9]*|gpu|cpu|auto)"
            r"|(nnodes|node-rank|master-port)=[0-9]+|master-addr=[A-Za-z0-9.:_-]+))+)$",
            description="python, or torchrun with its options such as torchrun --nproc-per-node=2",
        ),
    ]
    workers: Annotated[int, Field(ge=0, le=1024)]
    dask_scheduler: Annotated[
        str,
        Field(
            pattern=r"^((tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})?$",
            description="empty, or a Dask scheduler's address such as tcp://host:8786",
        ),
    ]
    progress: bool
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)]


with warnings.catch_warnings():
    # Metaclasses of abstract classes have a method `register`, which no settings use.
    warnings.filterwarnings("ignore", 'Field name "register"')

    class TrackingSettings(Section):
        """How runs are logged to MLflow; changes no result either."""

        enabled: bool
        experiment: Annotated[
            str,
            Field(
                min_length=1,
                max_length=200,
                pattern=r"^[^/:.][^/:]*$",
                description="a name without / and : that starts with no dot",
            ),
        ]
        delivery_timeout_seconds: Annotated[float, Field(ge=0, le=3600)]
        registered_model: Annotated[
            str,
            Field(
                max_length=200,
                pattern=r"^[^/:'\"`]*$",
                description="a name without / and : and quotes",
            ),
        ]


class Settings(Section):
    """All of ``params.yaml``: a section per stage, and two that no result depends on."""

    download: DownloadSettings
    convert: ConvertSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    render: RenderSettings
    stylize: StylizeSettings
    runtime: RuntimeSettings
    tracking: TrackingSettings

    @model_validator(mode="after")
    def _something_to_measure_by(self) -> "Settings":
        if self.train.select_model == "best" and not self.convert.validation_fraction:
            raise ValueError(
                "train.select_model: best needs images that training does not see; set"
                " convert.validation_fraction to a share of them, for example 0.1"
            )
        return self

    @property
    def judging(self) -> EvaluateSettings:
        """How epochs are judged while the training goes on, by its own settings alone."""
        train = self.train
        own = {"features": train.kid_features, "samples": train.kid_samples, "seed": train.seed}
        return self.evaluate.model_copy(update={**own, "reference": "test"})


def load(path: Path = Path("params.yaml")) -> Settings:
    """Read and check all settings.

    Raises:
        AtelierError: the file is missing or is no YAML, a key is unknown or missing, or a
            value has the wrong type or is out of range. The sentence names the key.
    """
    return check(read_yaml(path), path.name)


def check(values: Any, source: str) -> Settings:
    """Turn plain ``values``, as YAML gives them, into settings.

    Args:
        values: nested dicts, lists and scalars.
        source: the name of the file they come from, for messages.

    Raises:
        AtelierError: as for :func:`load`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise AtelierError(_sentence(error, source)) from None


def files_of(settings: Settings, section: str) -> dict[Path, str]:
    """Return the files that a section names, and for each the words that the setting takes too."""
    if section == "evaluate":
        name = settings.evaluate.features
        words = "vgg19_caffe, random or inception"
        return {Path("data/weights", name): words} if is_file_of_weights(name) else {}
    if section != "stylize":
        return {}
    stylize = settings.stylize
    images = [*stylize.contents, *stylize.styles, *stylize.style_masks]
    named: list[tuple[str, str, tuple[str, ...]]]
    named = [("pictures", name, ("generated", *STYLES, "drawn")) for name in images]
    named += [("weights", stylize.weights, WEIGHTS)]
    return {
        Path("data", folder, name): f"{', '.join(words[:-1])} or {words[-1]}"
        for folder, name, words in named
        if name not in words
    }


def check_files(
    settings: Settings, root: Path = Path(), sections: Iterable[str] = ("stylize", "evaluate")
) -> None:
    """Raise if a file that one of the sections names is missing.

    Raises:
        AtelierError: a picture or a file of weights is missing.
    """
    for section in sections:
        for file, words in files_of(settings, section).items():
            if not (root / file).is_file():
                raise AtelierError(
                    f"there is no {file}, which params.yaml asks for under {section}; put it there,"
                    f" or choose {words}."
                )


def check_section(name: str, values: Any, source: str) -> None:
    """Check the values of one section, as :func:`check` does those of all."""
    try:
        Settings.model_fields[name].annotation.model_validate(values)  # type: ignore[union-attr]
    except ValidationError as error:
        raise AtelierError(_sentence(error, source, (name,))) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file with the loader that DVC uses, so that both see the same values.

    Raises:
        AtelierError: the file is missing, is not UTF-8 or is no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AtelierError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise AtelierError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except Exception as error:  # of wrongly tagged scalars ruamel raises what Python happens to
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        told = _printable_value(problem, 200)
        raise AtelierError(f"{path.name} is not valid YAML{where}: {told}.") from None


def _sentence(error: ValidationError, source: str, section: tuple[str, ...] = ()) -> str:
    """Say the fault that tells most, and how many more there are."""
    faults = error.errors(include_url=False)
    # A misspelt key is also a missing one; the misspelling is the one to tell.
    fault = min(faults, key=lambda fault: fault["type"] == "missing")
    # pydantic says [key] where the key of a mapping is at fault, which its name says already.
    location = (*section, *(part for part in fault["loc"] if part != "[key]"))
    key = ".".join(map(_printable_value, location)) or "the file"
    kind = fault["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        told = f"{key} is not a setting{_nearest_key(location)}"
    elif kind == "missing":
        told = f"{key} is missing; `atelier preset sample` writes every setting"
    elif kind == "value_error":
        told = f"{key}: {fault['ctx']['error']}" if location else str(fault["ctx"]["error"])
    elif kind == "string_pattern_mismatch":
        told = (
            f"{key} is {_format_value(fault['input'])}, but it should be {_description(location)}"
        )
    else:
        # pydantic says Input should, String should, List should: here the key is meant.
        wanted = fault["msg"].partition(" should ")[2]
        told = f"{key} is {_format_value(fault['input'])}, but it should {wanted}"
    more = f" (and {len(faults) - 1} more to mend)" if len(faults) > 1 else ""
    return f"{source}: {told}{more}."


def _format_value(value: Any) -> str:
    """A value in at most 60 characters, without walking all of it: aliases make it endless."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, 60, 60, 60
    return _cut(short.repr(value), 60)


def _printable_value(part: int | str, most: int = 60) -> str:
    text = str(part)
    return _cut(text if text and text.isprintable() else repr(text), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean X`` for the known word most like ``word``, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}" if found else ""


def _nearest_key(location: tuple[int | str, ...]) -> str:
    """Name the known key that is most like an unknown one: beside it, or in another section."""
    wrong = str(location[-1])
    beside = _fields_at(location[:-1])
    before = "".join(f"{_printable_value(part)}." for part in location[:-1])
    elsewhere = [
        f"{section}.{wrong}" for section in Settings.model_fields if wrong in _fields_at((section,))
    ]
    return (
        f"; did you mean {elsewhere[0]}"
        if elsewhere
        else nearest(f"{before}{wrong}", [f"{before}{key}" for key in beside])
        if difflib.get_close_matches(wrong, beside, cutoff=0.5)
        else f"; known here are {', '.join(beside)}"
    )


def _description(location: tuple[int | str, ...]) -> str:
    """What a field with a pattern says of itself."""
    model: Any = Settings
    for part in location[:-1]:
        model = getattr(model, "model_fields", {}).get(part, model)
        model = getattr(model, "annotation", model)
    field = getattr(model, "model_fields", {}).get(location[-1])
    return (field and field.description) or "a plain name of letters, digits, - and _"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
        if not isinstance(model, type) and get_args(model):
            return []
    return list(getattr(model, "model_fields", {}))
