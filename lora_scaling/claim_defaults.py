"""What a claim is asked with, in a study and on a table alike: how equal, how sure, which settings. Imports nothing."""

MARGIN = 0.05  # what counts as equal, as a share
LEVEL = 0.95  # 1 − the error rate of a verdict
STATE_NAME = "study.json"  # in the folder of an adaptive study
MIN_LEVELS, MIN_RANGE = 4, 8  # of a factor, to see a curve
# Claims that a study can be steered by: the setting that varies, its levels unless others are given, and the setting
# that is held and at what.
ADAPTIVE = {
    "linear_in_samples": ("samples", "64,128,256,512,1024", "epochs", "1"),
    "linear_in_epochs": ("epochs", "1,2,4,8,16", "samples", "64"),
}
