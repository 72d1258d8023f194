# ruff: noqa: E501 - templates are kept as they are written
"""Chat templates in the style of well-known families, shortened, and the trained text of a conversation with thoughts.

The conversation is THOUGHTS. `<eos>`, which ends some answers and every text, is left out of what is expected.
"""

from lora_scaling.data.samples import Message, Sample


def chat(*contents: str, system: str | None = None) -> Sample:
    turns = [Message("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)]
    return Sample(messages=(*([Message("system", system)] if system else []), *turns))


THOUGHTS = chat("Er det?", "<think>en</think>Ja.", "Sikkert?", "<think>to</think>Nej.")
MARKS = (
    "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>", "<sop>", "<|user|>",
    "<|assistant|>", "<|system|>", "[gMASK]", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]",
    "<start_of_turn>", "<end_of_turn>", "<|im_sep|>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>",
    "<｜User｜>", "<｜Assistant｜>", "<|assistant_start|>", "<|assistant_end|>", "[|assistant|]", "[|endofturn|]",
    "<|im_assistant|>", "<|im_user|>", "<|im_middle|>", "<|im_system|>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip

_QWEN3 = """{%- set ns = namespace(last=0) %}{%- for m in messages %}{% if m.role == 'user' %}\
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{%- for m in messages %}{%- if m.role != 'assistant' %}\
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- else %}\
{%- set c = m.content %}{%- set r = '' %}{%- if '</think>' in c %}\
{%- set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\
{%- set c = c.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\
{%- if loop.index0 > ns.last %}{{- '<|im_start|>assistant\\n<think>\\n' + r.strip('\\n') + '\\n</think>\\n\\n' + c }}\
{%- else %}{{- '<|im_start|>assistant\\n' + c }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
_GLM4 = """[gMASK]<sop>{%- for m in messages %}{%- if m.role == 'assistant' %}<|assistant|>
{{ m.content.split('</think>')[-1].strip() }}{%- else %}<|{{ m.role }}|>
{{ m.content }}{%- endif %}{%- endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
_GLM45 = """[gMASK]<sop>{%- set ns = namespace(last=-1) %}{%- for m in messages %}{% if m.role == 'user' %}\
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{%- for m in messages %}{%- if m.role == 'user' %}<|user|>
{{ m.content }}{%- elif m.role == 'assistant' %}<|assistant|>{%- set c = m.content %}{%- set r = '' %}\
{%- if '</think>' in c %}{%- set r = c.split('</think>')[0].split('<think>')[-1].strip() %}\
{%- set c = c.split('</think>')[-1].strip() %}{%- endif %}
{%- if loop.index0 > ns.last and r %}{{ '\\n<think>' + r + '</think>' }}{%- else %}{{ '\\n<think></think>' }}{%- endif %}\
{%- if c.strip() %}{{ '\\n' + c.strip() }}{%- endif %}{%- else %}<|system|>
{{ m.content }}{%- endif %}{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
_LFM25 = """{{- bos_token -}}{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}\
{%- if m.role == 'assistant' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}{%- for m in messages -%}\
{{- '<|im_start|>' + m.role + '\\n' -}}{%- set c = m.content -%}\
{%- if m.role == 'assistant' and loop.index0 != ns.last and '</think>' in c -%}\
{%- set c = c.split('</think>')[-1] | trim -%}{%- endif -%}{{- c + '<|im_end|>\\n' -}}{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
_GPT_OSS = """<|start|>system<|message|>You are a model.<|end|>{%- for m in messages %}{%- if m.role == 'assistant' %}\
<|start|>assistant<|channel|>final<|message|>{{ m.content }}{% if loop.last and not add_generation_prompt %}<|return|>\
{%- else %}<|end|>{%- endif %}{%- else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{%- endif %}\
{%- endfor %}\
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
_PHI3 = """{% for m in messages %}<|{{ m['role'] }}|>
{{ m['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""
_PHI4 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
_DEEPSEEK_R1 = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}\
{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<eos>{% else %}{{ m.content }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>
{% endif %}"""
_DEEPSEEK_V3 = """{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}\
{% set ns.system = ns.system + m.content %}{% endif %}{% endfor %}{{ ns.system }}{% for m in messages %}\
{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'assistant' %}\
<｜Assistant｜>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"""
_SMOLLM3 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}\
{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}\
{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_CHATML = """{% for m in messages %}{% if loop.first and messages[0].role != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_LLAMA3 = """{{- bos_token }}{%- set system = '' %}{%- if messages[0].role == 'system' %}\
{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}{%- endif %}\
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{{- 'Today Date: ' + strftime_now('%Y') + '\\n\\n' }}\
{{- system }}{{- '<|eot_id|>' }}{%- for m in messages %}\
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
_LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}\
{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
_MISTRAL = """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}\
{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}{%- for m in rest %}\
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}\
{%- if m['role'] == 'user' %}{%- if loop.last and system is defined %}\
{{- '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}\
{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}\
{%- else %}{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"""
_MISTRAL_SMALL = """{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}\
{%- elif m.role == 'system' %}{{- '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}\
{%- elif m.role == 'assistant' %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}"""
_GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}\
{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}\
{% else %}{% set role = m['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
_GEMMA3 = """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}\
{%- set first = messages[0]['content'] + '\\n\\n' -%}{%- set rest = messages[1:] -%}{%- else -%}\
{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}{%- for m in rest -%}\
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}\
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}\
{%- if m['content'] is string -%}{{ m['content'] | trim }}{%- endif -%}{{ '<end_of_turn>\\n' }}{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
_ZEPHYR = """{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}{{ '<|system|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\\n' + m['content'] + eos_token }}
{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}
{% endif %}{% endfor %}"""
_OLMO2 = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|system|>\\n' + m['content'] + '\\n' }}\
{% elif m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + '\\n' }}{% elif m['role'] == 'assistant' %}\
{% if not loop.last %}{{ '<|assistant|>\\n' + m['content'] + eos_token + '\\n' }}\
{% else %}{{ '<|assistant|>\\n' + m['content'] + eos_token }}{% endif %}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""
_COMMAND_R = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\
{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}\
{% elif m['role'] == 'assistant' %}\
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}\
{% else %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m['content'] + '<|END_OF_TURN_TOKEN|>' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
_GRANITE = """{%- if messages[0].role != 'system' %}\
{{- '<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\\n' }}{%- endif %}{%- for m in messages %}\
{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""
_FALCON3 = """{% for m in messages %}{% if m.role == 'system' %}{{ '<|system|>\\n' + m.content + '\\n' }}\
{% elif m.role == 'user' %}{{ '<|user|>\\n' + m.content + '\\n' }}{% elif m.role == 'assistant' %}\
{% if not loop.last %}{{ '<|assistant|>\\n' + m.content + eos_token + '\\n' }}\
{% else %}{{ '<|assistant|>\\n' + m.content + eos_token }}{% endif %}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""
_VICUNA = """{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% endif %}{% for m in messages %}\
{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'assistant' %}\
{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
_APERTUS = """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}\
{{ '<|assistant_start|>' + m.content + '<|assistant_end|>' }}{% else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"""
_EXAONE = """{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}\
{{ '[|' + m.role + '|]' + m.content }}{% if m.role == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"""
_KIMI = """{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}\
<|im_system|>system<|im_middle|>You are Kimi.<|im_end|>{%- endif -%}{%- if m.role == 'assistant' -%}\
<|im_assistant|>assistant<|im_middle|>{%- elif m.role == 'user' -%}<|im_user|>user<|im_middle|>\
{%- else -%}<|im_system|>system<|im_middle|>{%- endif -%}{{ m.content }}<|im_end|>{%- endfor -%}\
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}"""

_BOTH = "<think>en</think>Ja.{end}<think>to</think>Nej.{end}"
TEMPLATES = {
    "Llama 2": (_LLAMA2, " <think>en</think>Ja.  <think>to</think>Nej. "),
    "Llama 3": (_LLAMA3, _BOTH.format(end="<|eot_id|>")),
    "Mistral": (_MISTRAL, " <think>en</think>Ja. <think>to</think>Nej."),
    "Mistral Small": (_MISTRAL_SMALL, _BOTH.format(end="")),
    "Gemma": (_GEMMA, _BOTH.format(end="<end_of_turn>")),
    "Gemma 3": (_GEMMA3, _BOTH.format(end="<end_of_turn>")),
    "Phi-3": (_PHI3, _BOTH.format(end="<|end|>") + "\n"),
    "Phi-4": (_PHI4, _BOTH.format(end="<|im_end|>")),
    "ChatML": (_CHATML, _BOTH.format(end="<|im_end|>")),
    "Qwen3": (_QWEN3, "Ja.<|im_end|><think>\nto\n</think>\n\nNej.<|im_end|>"),
    "SmolLM3": (_SMOLLM3, _BOTH.format(end="<|im_end|>")),
    "LFM2.5": (_LFM25, "Ja.<|im_end|><think>to</think>Nej.<|im_end|>"),
    "GLM-4": (_GLM4, "Ja.<|user|>Nej."),
    "GLM-4.5": (_GLM45, "\n<think></think>\nJa.<|user|>\n<think>to</think>\nNej."),
    "gpt-oss": (
        _GPT_OSS,
        "<|channel|>final<|message|><think>en</think>Ja.<|end|><|channel|>final<|message|><think>to</think>Nej.<|return|>",
    ),
    "DeepSeek-V3": (_DEEPSEEK_V3, _BOTH.format(end="")),
    "DeepSeek-R1": (_DEEPSEEK_R1, "Ja.Nej."),
    "Zephyr": (_ZEPHYR, _BOTH.format(end="")),
    "OLMo 2": (_OLMO2, _BOTH.format(end="")),
    "Command R": (_COMMAND_R, _BOTH.format(end="<|END_OF_TURN_TOKEN|>")),
    "Granite": (_GRANITE, _BOTH.format(end="<|end_of_text|>")),
    "Falcon 3": (_FALCON3, _BOTH.format(end="")),
    "Vicuna": (_VICUNA, " <think>en</think>Ja. <think>to</think>Nej."),
    "Apertus": (_APERTUS, _BOTH.format(end="<|assistant_end|>")),
    "EXAONE": (_EXAONE, _BOTH.format(end="[|endofturn|]")),
    "Kimi": (_KIMI, _BOTH.format(end="<|im_end|>")),
}
