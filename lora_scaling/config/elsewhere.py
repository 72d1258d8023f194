"""What other programs call our settings, and what to use in place of those that have no counterpart here."""

from collections.abc import Collection, Sequence

from lora_scaling.config.build import ALL_LISTED, close_names, guess, suggest
from lora_scaling.settings import SETTINGS

_NAMES = {alias: setting.name for setting in SETTINGS for alias in setting.aliases} | {
    "sweep": "+sweeps",
    "sweeps": "+sweeps",
    "experiment": "+experiment",
    "experiments": "+experiment",
    "country": "grid.zone",
    "country_iso_code": "grid.zone",
    "region": "grid.zone",
    "location": "grid.zone",
    "carbon_intensity": "grid.intensity_g_per_kwh",
    "pue": "grid.pue",
    "price": "price.per_hour, of lora-scaling estimate",
    "price.per_hour": "lora-scaling estimate price.per_hour",
    "price.per_kwh": "lora-scaling estimate price.per_kwh",
    "fit": "lora-scaling estimate fit",
    "measured": "lora-scaling estimate measured",
    "pilot": "lora-scaling estimate pilot",
    "compare": "lora-scaling estimate compare",
    "claim": "lora-scaling study claim",
    "max_minutes": "max_hours, or lora-scaling study max_minutes",
    "epoch": "epochs",
    "max_train_samples": "samples",
    "max_samples": "samples",
    "max_eval_samples": "eval_samples",
    "bf16": "precision=bf16",
    "fp16": "precision=fp16",
    "dtype": "precision",
    "torch_dtype": "precision",
    "bnb_4bit_compute_dtype": "precision",
    "load_in_4bit": "method=qlora",
    "use_qlora": "method=qlora",
    "quantization": "method=qlora",
    "quantization_bit": "method=qlora",
    "use_peft": "method=lora",
    "peft": "method",
    "peft_type": "method",
    "adapter": "method",
    "finetuning_type": "method",
    "target_modules": "lora.target_modules",
    "targets": "lora.target_modules",
    "target": "lora.target_modules",
    "model_name_or_path": "model=hub model.id",
    "model_name": "model=hub model.id",
    "model_id": "model=hub model.id",
    "base_model": "model=hub model.id",
    "model.path": "model=hub model.id",
    "model.checkpoint": "model=hub model.id",
    "model.file": "model=gguf model.gguf_file",
    "dataset_name": "data=hub data.path",
    "data_files": "data=file data.path",
    "data_path": "data=file data.path",
    "train_file": "data=file data.path",
    "data.file": "data=file data.path",
    "data.files": "data=file data.path",
    "data.name": "data",
    "data.format": "data.layout",
    "data.type": "data.layout",
    "dataset_format": "data.layout",
    "dataset_text_field": "data.fields",
    "train_on_inputs": "loss_on=all",
    "train_on_prompt": "loss_on=all",
    "assistant_only_loss": "loss_on=answers",
    "completion_only_loss": "loss_on=answers",
    "pack": "packing",
    "flash_attn": "attn_implementation",
    "per_device_eval_batch_size": "batch_size",
    "eval_batch_size": "batch_size",
    "fsdp": "sharding=fsdp",
    "deepspeed": "sharding=fsdp",
    "grad_clip": "max_grad_norm",
    "resume_from_checkpoint": "resume=auto",
    "save_steps": "resume=auto checkpoint_minutes",
    "save_strategy": "resume=auto",
    "output_dir": "runs_dir",
    "out": "runs_dir",
    "run_name": "study",
    "project": "study",
    "warmup_ratio": "lr_scheduler",
    "liger": "use_liger_kernel",
    "liger_kernel": "use_liger_kernel",
    "score.task": "score.tasks",
    "tasks": "score.tasks",
}
_RSLORA = "rsLoRA is lora.alpha times √(lora.r) here: give their product as lora.alpha, and leave it out"
_WITHOUT = {
    "use_rslora": _RSLORA,
    "rslora": _RSLORA,
    "lora_bias": "adapters have no biases here: leave it out",
    "lora.bias": "adapters have no biases here: leave it out",
    "modules_to_save": "beside adapters nothing is trained here: leave it out, or use method=full",
    "lora.modules_to_save": "beside adapters nothing is trained here: leave it out, or use method=full",
    "init_lora_weights": "adapters begin as those of LoRA do, without an effect: leave it out",
    "layers_to_transform": "adapters are in all layers: leave it out, or name single ones in lora.target_modules",
    "load_in_8bit": "frozen weights have 4 bits (method=qlora) or 16 (method=lora) here: leave it out",
    "bnb_4bit_quant_type": "method=qlora is NF4 with double quantisation: leave it out",
    "bnb_4bit_use_double_quant": "method=qlora is NF4 with double quantisation: leave it out",
    "neftune_noise_alpha": "noise changes no energy, and there is none here: leave it out",
    "logging_steps": "each run is recorded with its timeline, not by steps: leave it out",
    "eval_steps": "held-out samples are evaluated before and after training: leave it out",
    "eval_strategy": "held-out samples are evaluated before and after training: leave it out",
    "adam_beta1": "AdamW has its usual betas and epsilon here: leave it out",
    "adam_beta2": "AdamW has its usual betas and epsilon here: leave it out",
    "adam_epsilon": "AdamW has its usual betas and epsilon here: leave it out",
    "tokenizer": "the tokenizer is that of the model: leave it out",
    "trust_remote_code": "code of a checkpoint is never run: leave it out",
    "push_to_hub": "nothing is sent anywhere: use save_adapter=true, and send its folder yourself",
}  # fmt: skip


def not_a_setting(key: str, names: Collection[str], fields: Sequence[str]) -> str:
    """Say that there is no such setting, and which one may be meant.

    names: all settings and groups, as dotted names; fields: the names without a dot.
    """
    group, _, leaf = key.rpartition(".")
    if key in names:  # but the chosen option of the group has no such part
        what = "use model=shape, or leave it out" if group == "model.shape" else "choose another, or leave it out"
        return f"{key}: not a setting of the {key.partition('.')[0]} that is chosen; {what}"
    known = _of(_WITHOUT, key)
    if known is not None:
        return f"{key}: not a setting; {known}"
    own = [name for name in names if group and name.rpartition(".")[0] == group]
    elsewhere = _of(_NAMES, key)
    if elsewhere is None and group == "lora":
        elsewhere = _of(_NAMES, f"lora_{leaf}")
    named = [elsewhere] if elsewhere else [name for name in names if name.rpartition(".")[2] == leaf and name != key]
    if not named and own:
        leaves = [name.rpartition(".")[2] for name in own]
        named = [f"{group}.{name}" for name in close_names(leaf, leaves)]
    if named or own:
        return f"{key}: not a setting; {guess(named, own or fields, listed=ALL_LISTED)}"
    return f"{key}: not a setting; {suggest(key, fields, listed=ALL_LISTED)}"


def _of(table: dict[str, str], key: str) -> str | None:
    """Return the entry of a name, with its group or without, if that is another name."""
    found = table.get(key, table.get(key.rpartition(".")[2]))
    return None if found == key else found
