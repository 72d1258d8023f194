"""What a run imports before it starts, for the server that the processes of the tests are forked from."""

import codecarbon.core.emissions
import codecarbon.core.util
import transformers.models.llama.modeling_llama  # noqa: F401

import lora_scaling.energy.tracker
import lora_scaling.runs.run
import lora_scaling.training.engine
import lora_scaling.training.trainer  # noqa: F401

codecarbon.core.util.detect_cpu_model()  # which is remembered, and takes half a second
