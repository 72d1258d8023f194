"""The block `co2_eq_emissions` of a model card on the Hugging Face hub, with a sentence on how it was found.

https://huggingface.co/docs/hub/model-cards-co2
"""

from lora_scaling.errors import UserError
from lora_scaling.records.model_card import emissions_lines, how_obtained
from lora_scaling.text import ENERGY, MASS, counted

from ..tables.response import source_kinds
from ..tables.run_quantities import one_name_each
from ..tables.table import RunTable


def model_card(table: RunTable) -> str:
    """Return the YAML block, for the sum of all runs, and the sentence.

    Raises:
        UserError: the grams of some run are not known.
    """
    frame = table.frame
    unknown = frame["emissions_g"].isna()
    if frame.empty or unknown.any():
        raise UserError(
            f"emissions_g: got {int(unknown.sum())} of {len(frame)} runs without it; give the grams, or for run "
            "records compute them with `lora-scaling emissions RUNS grid.zone=ZONE`"
        )
    grams, energy = float(frame["emissions_g"].sum()), float(frame["energy_kwh"].sum())
    sources = sorted(set(frame["intensity_source"].dropna())) or ["the table's own grams"]
    hardware = sorted(set(one_name_each(frame["hardware"]).dropna()))
    how = how_obtained({kind for part in ("gpu", "cpu", "ram") for kind in source_kinds(frame, part)})
    lines = emissions_lines(grams=grams, source="; ".join(sources), hardware=", ".join(hardware) or None)
    sentence = (
        f"{counted(len(frame), 'run')} used {ENERGY.show(energy)} and caused {MASS.show(grams)} of CO2e "
        f"({grams / energy:.4g} g/kWh: {'; '.join(sources)}). The energy is {how}. Making of the hardware and failed "
        "or earlier runs that are not in the table are not counted."
    )
    return "\n".join(["---", *lines, "---", "", sentence, ""])
