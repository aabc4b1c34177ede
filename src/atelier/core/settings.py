"""Typed, frozen settings of every stage, as stored in ``params.yaml``.

A class is a section, a field is a key, and the description of a field with a pattern appears in
error messages. Values are only in ``params.yaml``; this module defines types, ranges and
contradictions.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from atelier.core.download_settings import DownloadSettings
from atelier.core.setting_types import (
    Count,
    CountOrZero,
    DaskAddress,
    DecayRate,
    Device,
    DiscriminatorBlocks,
    ExperimentName,
    ExtractorName,
    FileName,
    Fraction,
    GeneratorBlocks,
    Launcher,
    LearningRate,
    MemoryLimit,
    RegisteredModelName,
    Section,
    Seed,
    Sharing,
    StartFrom,
    Weight,
    is_weights_file,
)
from atelier.core.settings_errors import RuleError, validation_error
from atelier.core.yaml_files import read_yaml


class ConvertSettings(Section):
    """Conversion of raw images to arrays, and the split of their rows.

    ``validation_fraction`` of the rows measure epochs, ``test_fraction`` are used by the evaluate
    stage only. The train stage learns from neither.
    """

    image_size: Literal[16, 28, 32, 64, 128, 256]
    color: Literal["rgb", "grey"]
    resize_mode: Literal["crop", "stretch", "pad"]
    max_megapixels: Count
    # Defaults for files saved before these settings were added.
    faces: Literal["none", "crop", "align"] = "none"
    align_to: Literal["celeba", "ffhq"] = "celeba"
    face_margin: Annotated[float, Field(ge=0, le=2)] = 0.25
    smallest_face: Annotated[float, Field(ge=0.01, le=1)] = 0.05
    face_confidence: Annotated[float, Field(ge=0, le=1)] = 0.9
    faces_per_image: Literal["all", "largest"] = "all"
    face_detector: Literal["mtcnn", "yunet"] = "mtcnn"
    share_images: Sharing = "public"  # for files saved before this setting was added
    validation_fraction: Fraction
    test_fraction: Fraction
    duplicates: Literal["keep", "drop"] = "keep"  # for files saved before this setting was added

    @property
    def channels(self) -> int:
        """3 for ``rgb``, 1 for ``grey``."""
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="after")
    def _require_training_images(self) -> "ConvertSettings":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} and test_fraction is"
                f" {self.test_fraction}, which leaves no image"
                " for training; set them to 0.1 each"
            )
        return self


class DataReportSettings(Section):
    """The report on the data: number of images that are searched for outliers, 0 for none."""

    outlier_images: Annotated[int, Field(ge=0, le=10_000)]


class NetworkSettings(Section):
    """Architectures of the generator and the discriminator."""

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
    generator_blocks: GeneratorBlocks
    discriminator_blocks: DiscriminatorBlocks
    spectral_norm: bool


class TrainSettings(NetworkSettings):
    """The networks and their training; ``docs/train.md`` compares values."""

    epochs: Count
    steps: CountOrZero
    start_from: StartFrom = Field(default_factory=dict)  # for files saved before it was added
    freeze_discriminator: CountOrZero = 0  # for files saved before this setting was added
    batch_size: Annotated[int, Field(ge=2)]
    lr: LearningRate
    discriminator_lr: Weight
    schedule: Literal["constant", "linear", "cosine"]
    beta1: DecayRate
    beta2: DecayRate
    weight_decay: Weight
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    fused: Literal["none", "auto"] = "none"  # for files saved before this setting was added
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
    sample_every_epochs: Count = 1  # for files saved before this setting was added
    sample_every_steps: CountOrZero
    kid_every_epochs: CountOrZero
    kid_samples: Annotated[int, Field(ge=16)]
    kid_features: ExtractorName
    select_model: Literal["last", "best"]
    seed: Seed

    @property
    def has_penalty(self) -> bool:
        """True if the loss contains a gradient penalty."""
        return max(self.gradient_penalty, self.r1, self.r2) > 0

    @model_validator(mode="after")
    def _check_blocks(self) -> "TrainSettings":
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
                "batch normalization undoes the division by spectral_norm; set discriminator_norm"
                " to false"
            )
        if self.discriminator_blocks == "residual" and self.discriminator_norm:
            raise ValueError(
                "discriminator_blocks: residual has no batch normalization; set"
                " discriminator_norm to false"
            )
        return self

    @model_validator(mode="after")
    def _check_fused(self) -> "TrainSettings":
        """Reject settings with which a fused step is impossible or would have another state."""
        obstacles = {
            "spectral_norm iterates in each pass of the discriminator": self.spectral_norm,
            "dropout draws random numbers in each pass of the discriminator": self.dropout,
            "penalties need second derivatives, which compiled networks lack": self.has_penalty,
            "torch.compile does not support precision: tf32": self.precision == "tf32",
        }
        for reason, present in obstacles.items():
            if self.fused == "auto" and present:
                raise ValueError(f"fused: auto is impossible, because {reason}; set fused to none")
        return self

    @model_validator(mode="after")
    def _check_losses(self) -> "TrainSettings":
        if self.label_smoothing and self.loss != "bce":
            raise ValueError(f"label_smoothing is of loss: bce; set it to 0 for {self.loss}")
        if self.loss == "wgan" and not (self.has_penalty or self.spectral_norm):
            raise ValueError(
                "loss: wgan needs a smooth discriminator; set gradient_penalty to 10, or"
                " spectral_norm to true"
            )
        if self.penalty_interval > 1 and not self.has_penalty:
            raise ValueError(
                "penalty_interval has no penalty to apply; set it to 1, or one of"
                " gradient_penalty, r1 and r2 above 0"
            )
        if self.has_penalty and self.network == "dcgan" and self.discriminator_norm:
            raise ValueError(
                "gradient_penalty, r1 and r2 need a gradient per image, but batch normalization"
                " mixes the images of a batch; set discriminator_norm to false"
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> "TrainSettings":
        if self.freeze_discriminator and not self.start_from:
            raise ValueError(
                "freeze_discriminator keeps layers of an earlier training, but start_from names"
                " none; set it to 0, or start_from to {celeba: models:/celeba@champion}, for"
                " example"
            )
        return self

    @model_validator(mode="after")
    def _check_kid(self) -> "TrainSettings":
        if self.select_model == "best" and not self.kid_every_epochs:
            raise ValueError(
                "select_model: best needs measured epochs; set kid_every_epochs to 1 or more"
            )
        if is_weights_file(self.kid_features):
            # The train stage would have to depend on data/weights, and any new file rerun it.
            raise ValueError(
                "kid_features takes no file of weights; set it to random, inception or a"
                " torchvision network, and evaluate.features to the file"
            )
        return self


class EvaluateSettings(Section):
    """Comparison of generated images with real ones.

    ``features`` names the extractor: ``random`` filters, FID's ``inception``, a torchvision
    network, or a VGG19 from ``data/weights/``. ``reference`` names the real images: ``test`` for at
    most ``samples`` images that training does not use, or ``training`` for all training images,
    as in the literature.
    """

    samples: Annotated[int, Field(ge=16)]
    reference: Literal["test", "training"]
    features: ExtractorName
    epochs: CountOrZero
    nearest_neighbor_pool: Count
    seed: Seed


class RenderSettings(Section):
    """Montages and the GIF of the training; the report page uses ``columns`` and ``fps`` too."""

    columns: Annotated[int, Field(ge=1, le=64)]
    tile_pixels: Annotated[int, Field(ge=8, le=512)]
    montage_every_epochs: Count
    fps: Annotated[float, Field(gt=0, le=50)]


class StylizeSettings(Section):
    """Neural style transfer: images, objective and optimizer.

    Layers are positions in ``torchvision.models.vgg19().features``. A content or style image is
    a file in ``data/pictures/``, ``generated`` (faces of the trained generator), or a built-in
    style. Weights are ``vgg19_caffe``, ``imagenet``, ``random`` or a file in ``data/weights/``.
    The ``auto`` precision is bfloat16 if the processor has instructions for it.
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
    # Not `size`: DVC's run cache ignores parameters of that name.
    image_size: Annotated[int, Field(ge=32, le=16_384)]
    memory_gb: MemoryLimit
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
        """Return the preprocessing of the weights; only ``random`` and files use the setting."""
        if self.weights == "vgg19_caffe":
            return "caffe"
        return "torchvision" if self.weights == "imagenet" else self.preprocessing

    @model_validator(mode="after")
    def _require_loss_weight(self) -> "StylizeSettings":
        if not self.style_layers:
            raise RuleError("{style_layers} needs at least one layer, for example {{1: 1.0}}")
        if not any([*self.style_layers.values(), *self.content_layers.values()]):
            raise RuleError(
                "one of {style_layers} and {content_layers} needs a weight above 0, for example"
                " {{1: 1.0}}"
            )
        return self

    @model_validator(mode="after")
    def _check_optimizer(self) -> "StylizeSettings":
        if self.optimizer == "adam" and self.lr > 0.5:
            raise RuleError(
                "{lr} is {value}, too large a step for adam (pixels are 0 to 1);"
                " set it to about 0.02",
                value=self.lr,
            )
        if self.iterate_averaging and self.optimizer != "adam":
            raise RuleError(
                "{iterate_averaging} is {value}, but only adam averages; set it to 0, or"
                " {optimizer} to adam with an {lr} of 0.02",
                value=self.iterate_averaging,
            )
        if self.gif and not self.save_intermediates:
            raise RuleError(
                "{gif} needs intermediate images, but {save_intermediates} is 0; set it to about 24"
            )
        if not self.clamp_to_range and (self.style_masks or self.preserve_color == "luminance"):
            raise RuleError(
                "{clamp_to_range} is false, but {style_masks} and {preserve_color}: luminance need"
                " it; set it to true"
            )
        return self

    @model_validator(mode="after")
    def _check_mixed_styles(self) -> "StylizeSettings":
        counts = {
            "style_weights": len(self.style_weights),
            "style_masks": len(self.style_masks),
        }
        for name, count in counts.items():
            if count and self.pairing == "cycle":
                raise RuleError(
                    f"{{{name}}} combines all styles in every stylized image, but {{pairing}} is"
                    f" cycle; set {{pairing}} to product, or {{{name}}} to []"
                )
            if count and count != len(self.styles):
                raise RuleError(
                    f"{{{name}}} is a list of {count}, but the number of styles is"
                    f" {len(self.styles)}; give one for each"
                )
        if self.style_weights and not any(self.style_weights):
            raise RuleError("one of {style_weights} needs to be above 0, for example [1.0, 1.0]")
        return self


class RuntimeSettings(Section):
    """Settings of the machine; they change no result, and no stage depends on them."""

    device: Device
    launcher: Launcher
    workers: Annotated[int, Field(ge=0, le=1024)]
    dask_scheduler: DaskAddress
    progress: bool
    cudnn_benchmark: bool = False  # for files saved before this setting was added
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)]


class TrackingSettings(Section):
    """Logging of runs to MLflow; it changes no result."""

    enabled: bool
    experiment: ExperimentName
    delivery_timeout_seconds: Annotated[float, Field(ge=0, le=3600)]
    registered_model: RegisteredModelName


class Settings(Section):
    """All of ``params.yaml``: one section per stage, ``runtime`` and ``tracking``."""

    download: DownloadSettings
    convert: ConvertSettings
    # for files saved before this section was added
    data_report: DataReportSettings = DataReportSettings(outlier_images=500)
    train: TrainSettings
    evaluate: EvaluateSettings
    render: RenderSettings
    stylize: StylizeSettings
    runtime: RuntimeSettings
    tracking: TrackingSettings

    @property
    def shares_images(self) -> bool:
        """True if images of the data may be in MLflow, renders, plots and the report page."""
        sharing = self.convert.share_images
        return sharing == "all" or (sharing == "public" and self.download.is_public)

    @model_validator(mode="after")
    def _require_validation_images(self) -> "Settings":
        if self.train.select_model == "best" and not self.convert.validation_fraction:
            raise ValueError(
                "train.select_model: best needs images that training does not see; set"
                " convert.validation_fraction to a share of them, for example 0.1"
            )
        return self


def load(path: Path = Path("params.yaml")) -> Settings:
    """Read and validate all settings.

    Raises:
        AtelierError: the file is missing or not valid YAML, a key is unknown or missing, or a
            value has the wrong type or is out of range. The message names the key.
    """
    return check(read_yaml(path), path.name)


def check(values: Any, source: str) -> Settings:
    """Validate plain values and return them as settings.

    Args:
        values: nested dicts, lists and scalars, as read from YAML.
        source: the name of their file, for messages.

    Raises:
        AtelierError: as for :func:`load`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise validation_error(error, source, Settings) from None


def check_section(name: str, values: Any, source: str) -> None:
    """Validate the values of one section.

    Raises:
        AtelierError: as for :func:`check`.
    """
    try:
        Settings.model_fields[name].annotation.model_validate(values)  # type: ignore[union-attr]
    except ValidationError as error:
        raise validation_error(error, source, Settings, (name,)) from None
