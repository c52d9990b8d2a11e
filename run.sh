#!/usr/bin/env bash
# From DICOM files to a scored submission: set-up, then six stages. `./run.sh --help` lists options and commands.
# Works with bash 3.2 (macOS). pipeline/front_door.py parses the options, pipeline/run_stage.py runs and logs a stage.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=${PE_ROOT:-$HERE}                                     # artifacts/, experiments/, logs/

main_job() {  # a stage that is up to date is skipped
  stage input       prepare "$@"   # DICOM + CSV           -> exam and slice tables, folds
  stage features    build   "$@"   # DICOM                 -> pixel store, measurements
  stage models      train   "$@"   # slices                -> networks, their predictions
  stage ensemble    fit     "$@"   # predictions           -> combined predictions, LightGBM
  stage submissions write   "$@"   # combined predictions  -> CSV, leaderboard, model card
  stage inference   report  "$@"   # finished run          -> evidence report on test exams
}

# ---------------------------------------------------------------- a command, or the main job
main() {
  export_environment
  case ${1:-} in
    input | features | models | ensemble | submissions | inference)
                             in_environment "$@" ;;
    check-data)              in_environment input "$@" ;;
    check-store)             in_environment features "$@" ;;
    check-submission | score | leaderboard | card | upload | kaggle-dataset | notebook)
                             in_environment submissions "$@" ;;
    experiments | blend | export | clean) in_environment submissions "$@" ;;
    search)                  in_environment ensemble "$@" ;;
    predict | predict-contest | evidence | export-dicom | compare | repeat) in_environment inference "$@" ;;
    test)                    shift; run_tests "$@" ;;
    bench)                   shift; benchmark "$@" ;;
    scheduler)               shift; in_environment distributed.cli.dask_scheduler "$@" ;;
    worker)                  shift; in_environment distributed.cli.dask_worker "$@" ;;
    doctor | lock)           before_set_up "$@" ;;
    pipeline)                shift; before_set_up "$@" ;;
  esac
  choose_python
  "$PYTHON" -m pipeline.front_door "$@"                    # checks options and settings; prints help and plan
  for option; do
    case $option in -h | --help | --dry-run) return ;; esac
  done
  set_up
  one_run_at_a_time
  main_job "$@"
}

stage() {  # stage NAME VERB OPTIONS: run it if it lies between --from and --to
  "$PYTHON" -m pipeline.run_stage "$@"
}

in_environment() {  # run a Python module with its arguments
  set_up
  exec "$PYTHON" -m "$@"
}

run_tests() {  # one process per core; the numbers inside a test do not profit from more threads
  set_up
  cd "$HERE"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONDONTWRITEBYTECODE=  # else every process compiles the tests
  exec "$PYTHON" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
}

benchmark() {  # benchmark NAME ARGUMENTS
  (($#)) || { echo "error: bench needs a NAME; benchmarks/README.md lists them" >&2; exit 2; }
  local name=$1; shift
  in_environment "benchmarks.$name" "$@"
}

before_set_up() {  # commands that need no package; `doctor` describes the environment if there is one
  choose_python
  [[ -n ${PE_PYTHON:-} || ${1:-} != doctor || ! -x $PE_VENV/bin/python ]] || PYTHON=$PE_VENV/bin/python
  exec "$PYTHON" -m pipeline "$@"
}

one_run_at_a_time() {  # every stage inherits the lock, so a killed run.sh frees it when its last stage ends
  mkdir -p "$ROOT/logs"
  exec 9>"$ROOT/logs/.running"
  "$PYTHON" -m pipeline.run_lock
}

# ---------------------------------------------------------------- set-up
export_environment() {
  local writable=$HERE
  [[ -w $HERE ]] || writable=$ROOT                         # a read-only checkout
  export PE_VENV=${PE_VENV:-$writable/.venv} PE_RUN_SH=$0
  [[ -w ${HOME:-} ]] || export HOME=${HOME:-$writable/.cache} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$writable/.cache}
  export PYTHONPATH=$HERE PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONHASHSEED=0 PYTHONUNBUFFERED=1
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2} KERAS_BACKEND=${KERAS_BACKEND:-tensorflow}
}

set_up() {  # .venv from the lock file, ImageNet wheels; milliseconds if both are current
  choose_python
  [[ -z ${PE_PYTHON:-} ]] || return 0
  if ! "$PYTHON" -m pipeline setup --check; then
    mkdir -p "$ROOT/logs"
    "$PYTHON" -m pipeline setup 2>&1 | tee -a "$ROOT/logs/setup.log" ||
      { echo "error: the set-up failed. Log: $ROOT/logs/setup.log. Resume: rerun the same command." >&2; exit 1; }
  fi
  PYTHON=$PE_VENV/bin/python
}

choose_python() {  # a Python that the lock files support, before there is a .venv; preferably one that can make one
  local name test supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
  PYTHON=${PE_PYTHON:-}
  [[ -z $PYTHON ]] || return 0
  for test in 'import ensurepip' pass; do
    for name in python3 python3.13 python3.12 python3.11 "$PE_VENV/bin/python"; do
      PYTHON=$(command -v "$name") && "$PYTHON" -c "$test; $supported" 2>/dev/null && return
    done
  done
  if command -v uv >/dev/null; then
    uv python install --quiet 3.12 && PYTHON=$(uv python find 3.12) && return
  fi
  echo "error: no Python 3.11, 3.12 or 3.13 found (python3 is $(python3 -V 2>&1 || echo absent))." >&2
  echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.12), or uv." >&2
  exit 1
}

main "$@"
