"""Define the default margin, confidence level and settings of a claim, for studies and tables. Imports nothing."""

MARGIN = 0.05  # equivalence margin, relative
LEVEL = 0.95  # confidence level: 1 − the error rate of a verdict
STATE_NAME = "study.json"  # in the folder of an adaptive study
MIN_LEVELS, MIN_RANGE = 4, 8  # of a factor, to see a curve
# Claims that an adaptive study can decide: the setting that varies, its default levels, and the setting that is held
# fixed, with its value.
ADAPTIVE = {
    "linear_in_samples": ("samples", "64,128,256,512,1024", "epochs", "1"),
    "linear_in_epochs": ("epochs", "1,2,4,8,16", "samples", "64"),
}
