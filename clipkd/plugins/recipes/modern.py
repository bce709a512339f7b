"""What vision transformers of this size are trained with today; its augmentation is as strong as the run is long."""

from dataclasses import replace

from clipkd.plugins.recipes.corrected import SPEC as corrected

SPEC = replace(
    corrected,
    name="modern",
    temperature=2.0,
    distillation_weight=1.0,
    warmup_fraction=10 / 310,
    warmup_start=1 / 600,
    floor=1 / 60,
    cooldown_fraction=10 / 310,
    augment="auto",
    drop_path=0.1,
    standardised=True,
    scores_weight=10.0,
    feature_weight=5.0,
    adds_feature=True,
    protocol=3,
)
