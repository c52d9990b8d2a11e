"""The stages in the order of a run, each with its main command; run.sh lists them with their inputs and outputs."""

MAIN_COMMANDS = {
    "input": "prepare",
    "features": "build",
    "models": "train",
    "ensemble": "fit",
    "submissions": "write",
    "inference": "report",
}
