# What .ci/run and .ci/long share: a clean clone with a fresh environment, and parts that say how long they took.
# Source it from the root of the checkout.

# A clean clone of the commit, under the name that a newcomer's has; nothing of the checkout itself is used.
scratch=$(mktemp -d)
trap 'say_times; rm -rf "$scratch"' EXIT
git clone -q . "$scratch/ngdla"
cd "$scratch/ngdla"

times=()

# part NAME BUDGET COMMAND...: run a part, and note its seconds beside the budget.
part() {
    local name=$1 budget=$2 start=$SECONDS note=
    shift 2
    "$@"
    local seconds=$((SECONDS - start))
    [ "$seconds" -le "$budget" ] || note=', over its budget: thin it'
    times+=("$(printf '%-16s %5d s of %5d%s' "$name" "$seconds" "$budget" "$note")")
}

say_times() {
    printf '%s\n' "${times[@]}" "$(printf '%-16s %5d s' 'in all' "$SECONDS")"
}

# torch first and by version, before anything else could choose another build of it. CuPy without a GPU is for the test
# of the names and keywords that we use of it. orbax, optax and flax bring JAX with them, so that they are in no extra
# that `make test` installs.
install_libraries() {
    make venv
    .venv/bin/python -m pip install -qq torch==2.13.0
    .venv/bin/python -m pip install -qq jax jaxlib "dask[array]" cupy-cuda13x orbax-checkpoint optax flax
}

# NetKet, quantax and the others, which pin packages, in an environment of their own, with the same torch. laplace-torch asks
# for torchvision and does not use it, but backends of it import it where it is; one whose operators are for another build
# of torch stops them with "operator torchvision::nms does not exist".
install_peers() {
    local python=.venv-peers/bin/python
    make venv VENV=.venv-peers
    $python -m pip install -qq torch==2.13.0
    echo torch==2.13.0 >"$scratch/torch.txt"
    PIP_CONSTRAINT=$scratch/torch.txt sh tools/bootstrap.sh .venv-peers '' peers
    $python -c 'import torchvision' 2>/dev/null || $python -m pip uninstall -qq -y torchvision
    $python -c 'import curvlinops, laplace, lineax, singd'
}
