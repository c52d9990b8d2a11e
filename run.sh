#!/usr/bin/env bash
# From DICOM files to a scored submission: the set-up, then five stages. `./run.sh --help` explains.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=${PE_ROOT:-$HERE}                                   # where products and logs lie
declare -A PLACE=([input]=1 [features]=2 [models]=3 [ensemble]=4 [submissions]=5 [inference]=6)

main_job() {
  stage input       prepare   # DICOM + CSV     -> exam and slice tables, folds   input/prepared
  stage features    build     # DICOM           -> pixel store, measured numbers  features/store
  stage models      train     # slices          -> networks' opinions, per fold   models/runs
  stage ensemble    fit       # opinions        -> one opinion, LightGBM          ensemble/runs
  stage submissions write     # one opinion     -> CSV, leaderboard, report       submissions/results
  stage inference   report    # the run         -> evidence.html of test exams    inference/results
}

help() {
  cat <<'HELP'
From DICOM files to a scored Kaggle submission (RSNA-STR Pulmonary Embolism Detection).

usage: ./run.sh [options]               run what is missing or stale; a finished stage is skipped
       ./run.sh VERB [arguments]        do one other thing (VERB --help tells its flags)

options
  --data DIR         a contest tree (train/, test/, train.csv, test.csv); without it a synthetic
                     contest is drawn and used
  --settings FILE    one experiment; default settings/phantom.toml, see settings/
  --set KEY=VALUE    override one setting, e.g. --set models.epochs=6; repeatable
  --from STAGE       start at this stage: input, features, models, ensemble, submissions or inference
  --to STAGE         stop after this stage
  --force            rebuild the chosen stages even when they are up to date
  --scheduler ADDR   hand headers, ingest and networks to a Dask cluster, e.g. tcp://node1:8786;
                     its machines see this checkout, the data and PE_ROOT under the same paths
  --dry-run          only tell how far the work is, what would run, and what it needs of disk and
                     hours; the contest's published counts stand in for a DIR that is not there
  --help             this text

verbs
  test               run the tests; arguments go to pytest:        ./run.sh test -k metric
  predict DICOM_DIR  apply the finished ensemble to unlabelled series; with --submission FILE
                     DICOM_DIR is a contest tree, whose whole submission is written
  export-dicom       the same answers as DICOM objects for a PACS (--series DIR --out DIR)
  check FILE         is this a valid submission? every fault:      ./run.sh check FILE --data DIR
  score FILE         the contest's metric, label by label:         ./run.sh score FILE --truth CSV
  leaderboard        every model's out-of-fold score, with intervals
  card               the model card of the finished run
  evidence           its report for a browser, of the exams you name (--exams UID ... --out HTML)
  upload FILE        check a submission, show what sends it to Kaggle; --really sends it
  kaggle-dataset     pack code and finished run for Kaggle (--out DIR)
  notebook           the notebook that runs them without Internet (--out FILE.ipynb)
  doctor             machine, environment and products in one screen
  scheduler          start a Dask scheduler on this machine; arguments go to `dask scheduler`
  worker ADDR        let this machine work for it, a job a thread: ./run.sh worker ADDR --nthreads 4
  lock               write the lock files anew from pyproject.toml (needs uv)

examples
  ./run.sh                                                  the whole thing on the synthetic contest
  ./run.sh --data ~/rsna --settings settings/rsna.toml      the contest itself
  ./run.sh --from models --force                            train again, and all that follows
  ./run.sh --data ~/rsna --scheduler tcp://node1:8786       on several machines
  ./run.sh predict ~/scans/series7                          nine exam labels and a CSV of slices

variables
  PE_ROOT            products, logs and weights go here instead of the checkout
  PE_DEVICE          cpu or gpu: which TensorFlow; without it gpu where nvidia-smi lists a card
  PE_VENV            where the environment lies instead of .venv
  PE_PYTHON          use this Python with its packages as it is: no .venv, nothing fetched
  KERAS_BACKEND      tensorflow (default), jax or torch

A run that was stopped, even by kill -9, goes on where it was when the same command is given again.
HELP
}

# ---------------------------------------------------------------- options, then the verb or the main job
main() {
  FROM=input TO=inference FORCE=() DRY=no OPTIONS=()
  export_environment
  case ${1:-} in
    test)        shift; set_up; cd "$HERE"; exec "$PYTHON" -m pytest "$@" ;;
    predict | evidence | export-dicom)
                 set_up; exec "$PYTHON" -m inference "$@" ;;
    check | score | leaderboard | card | upload | kaggle-dataset | notebook)
                 set_up; exec "$PYTHON" -m submissions "$@" ;;
    doctor)      shift; choose_python
                 [[ -n ${PE_PYTHON:-} || ! -x $PE_VENV/bin/python ]] || PYTHON=$PE_VENV/bin/python
                 exec "$PYTHON" -m pipeline doctor "$@" ;;
    scheduler | worker)
                 set_up; exec "$PYTHON" -m "distributed.cli.dask_$1" "${@:2}" ;;
    lock)        shift; choose_python; exec "$PYTHON" -m pipeline lock "$@" ;;
  esac
  read_options "$@"
  choose_python
  if [[ $DRY == yes ]]; then
    "$PYTHON" -m pipeline plan "${OPTIONS[@]}"
    [[ -n ${PE_PYTHON:-} ]] || "$PYTHON" -m pipeline setup --check || echo "would run     the set-up of $PE_VENV"
    main_job
    return
  fi
  "$PYTHON" -m pipeline plan --quiet "${OPTIONS[@]}"     # a misspelt setting is told before the set-up
  set_up
  one_run_at_a_time
  main_job
}

read_options() {
  local data=
  while (($#)); do
    case $1 in
      --data | --settings | --set | --from | --to | --scheduler)
        (($# > 1)) || usage_fault "$1 needs a value" ;;&
      --data)      data=$2; OPTIONS+=(--data "$2"); shift 2 ;;
      --settings | --set | --scheduler) OPTIONS+=("$1" "$2"); shift 2 ;;
      --from | --to)
                   [[ -n ${PLACE[$2]:-} ]] || usage_fault "$1 $2: the stages are input, features, models, ensemble, submissions, inference"
                   [[ $1 == --from ]] && FROM=$2 || TO=$2
                   shift 2 ;;
      --force)     FORCE=(--force); shift ;;
      --dry-run)   DRY=yes; shift ;;
      -h | --help) help; exit 0 ;;
      --*=*)       set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      *)           usage_fault "unknown option or verb: $1" ;;
    esac
  done
  [[ $DRY == yes || -z $data || -d $data ]] || usage_fault "--data $data: no such folder"
  ((PLACE[$FROM] <= PLACE[$TO])) || usage_fault "--from $FROM lies after --to $TO"
}

usage_fault() {
  echo "error: $1" >&2
  echo "./run.sh --help shows the options" >&2
  exit 2
}

# ---------------------------------------------------------------- one stage
stage() {  # stage NAME COMMAND: run `python -m NAME COMMAND` when NAME lies between --from and --to
  ((PLACE[$FROM] <= PLACE[$1] && PLACE[$1] <= PLACE[$TO])) || return 0
  local status=0 command=(-m "$1" "$2" "${OPTIONS[@]}" "${FORCE[@]}")
  if [[ $DRY == yes ]]; then
    echo "would run     python $(quoted "${command[@]}")"
    return
  fi
  logged "$1" "$PYTHON" "${command[@]}" || status=$?
  ((status == 0)) || stopped "$1" "$status"
}

stopped() {  # tell what failed and how to go on; without --force, so that partial work is kept
  local again=("$0" "${OPTIONS[@]}") end=() next
  [[ $TO == inference ]] || end=(--to "$TO")
  {
    (($2 == 130)) || echo "error: the stage '$1' failed (status $2); its log: $ROOT/logs/$1.log"
    echo "what is finished stays; to go on: $(quoted "${again[@]}" --from "$1" "${end[@]}")"
    for next in "${!PLACE[@]}"; do
      ((${#FORCE[@]} && PLACE[$next] == PLACE[$1] + 1 && PLACE[$next] <= PLACE[$TO])) || continue
      echo "then, to force the stages behind it too: $(quoted "${again[@]}" --from "$next" "${end[@]}" --force)"
    done
  } >&2
  exit "$2"
}

quoted() {  # words as one would type them: quotes only where needed
  local word line=
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./=:,@%+-]+$ ]]; then line+="$word "; else line+="${word@Q} "; fi
  done
  echo "${line% }"
}

logged() {  # logged NAME COMMAND...: show the output and keep it in logs/NAME.log; the command's status
  local log=$ROOT/logs/$1.log status=0
  mkdir -p "$ROOT/logs"
  shift
  echo "== $(date '+%F %T') $(quoted "$@")" >>"$log"
  "$@" 2>&1 | tee -i -a "$log" || status=${PIPESTATUS[0]}
  sed -i 's/.*\r//' "$log"                               # of a progress bar, only its last state
  return "$status"
}

one_run_at_a_time() {  # the lock is inherited by the stages: a killed run.sh frees it when its last stage ends
  command -v flock >/dev/null || return 0
  mkdir -p "$ROOT/logs"
  exec 9>"$ROOT/logs/.running"
  flock -n 9 && return
  echo "an earlier run still works on $ROOT; waiting for it to end" >&2
  flock 9
}

# ---------------------------------------------------------------- set-up
export_environment() {
  export PYTHONPATH=$HERE PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONHASHSEED=0 PYTHONUNBUFFERED=1
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2} KERAS_BACKEND=${KERAS_BACKEND:-tensorflow}
  if [[ -t 1 ]]; then                                    # the stages write through tee: tell them of the terminal
    read -r LINES COLUMNS < <(stty size </dev/tty 2>/dev/null || echo 24 80)
    export PE_PROGRESS=1 LINES COLUMNS
  fi
  local place=$HERE
  [[ -w $HERE ]] || place=$ROOT                          # a read-only checkout
  export PE_VENV=${PE_VENV:-$place/.venv}
}

set_up() {  # .venv from the lock file, ImageNet wheels; milliseconds when both are current
  [[ -z ${PE_PYTHON:-} ]] || { PYTHON=$PE_PYTHON; return; }
  choose_python
  if ! "$PYTHON" -m pipeline setup --check; then
    logged setup "$PYTHON" -m pipeline setup || { echo "the set-up failed; its log: $ROOT/logs/setup.log" >&2; exit 1; }
  fi
  PYTHON=$PE_VENV/bin/python
}

choose_python() {  # a Python that the lock files support, before there is a .venv; rather one that can make one
  local name able supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
  PYTHON=${PE_PYTHON:-}
  [[ -z $PYTHON ]] || return 0
  for able in 'import ensurepip' pass; do
    for name in python3 python3.13 python3.12 python3.11 "$PE_VENV/bin/python"; do
      PYTHON=$(command -v "$name") && "$PYTHON" -c "$able; $supported" 2>/dev/null && return
    done
  done
  if command -v uv >/dev/null; then
    uv python install --quiet 3.12 && PYTHON=$(uv python find 3.12) && return
  fi
  echo "error: no Python 3.11, 3.12 or 3.13 found (python3 is $(python3 -V 2>&1 || echo absent))" >&2
  echo "install one (Debian, Ubuntu: apt-get install python3 python3-venv), or uv, which fetches its own" >&2
  exit 1
}

main "$@"
