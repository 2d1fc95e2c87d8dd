# One image for everything: the challenge contract (no arguments: /input -> /output), the commands, and Ray's machines.
#
#   docker build --tag goat-ray .                             # NVIDIA GPUs, and CPUs where there is none
#   docker build --build-arg DEVICE=cpu --tag goat-ray:cpu .  # CPUs only, several GB smaller
#   docker run --rm --network none --gpus all --user "$(id -u):$(id -g)" \
#     -v "$PWD/cohort:/input:ro" -v "$PWD/ensemble:/ensemble:ro" -v "$PWD/labels:/output" goat-ray
#
# No weights are in it. jobs/README.md tells the rest.

# All machines of a Ray cluster need the same Python, down to the last number.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG DEVICE=cuda
ARG CPU_TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt ./
# torch from the package index brings CUDA; that of its own index, once installed, satisfies the same pin without it.
# boto3 is for Ray's cluster launcher, whose autoscaler runs in this image.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && case "${DEVICE}" in \
         cpu) pip install --constraint constraints.txt --no-deps --index-url "${CPU_TORCH_INDEX}" torch ;; \
         cuda) ;; \
         *) echo "DEVICE is cuda or cpu, not ${DEVICE}" >&2; exit 1 ;; \
       esac \
    && pip install --constraint constraints.txt --requirement requirements.txt boto3
COPY README.md LICENSE ./
COPY goat_ray goat_ray
RUN pip install --no-deps .

FROM ${PYTHON_IMAGE}
# gcc: Triton builds what launches its kernels. rsync and ssh: the cluster launcher; wget: KubeRay's probes. These two
# start Ray from login shells, which reset PATH.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home goat \
    && install --directory --mode 1777 /scratch \
    && chmod 1777 /home/goat \
    && echo 'PATH=/opt/venv/bin:$PATH' > /etc/profile.d/goat-ray.sh
COPY --from=build /opt/venv /opt/venv
COPY jobs /opt/goat-ray/jobs
# USER and HOME hold for any --user; a number without a name is fine.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/home/goat \
    USER=goat \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_idle_worker_killing_time_threshold_ms=600000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/goat
# Without arguments or with options it segments /input; any other word is a command: goat-ray, ray, bash.
ENTRYPOINT ["python", "/opt/goat-ray/jobs/container.py"]
