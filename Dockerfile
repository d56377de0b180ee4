# One image for all roles.
#   CPU:   docker build --tag hetero-splitee:cpu .
#   CUDA:  docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag hetero-splitee:cuda .

ARG PYTHON=3.13.7-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH

# torch and torchvision come from one index, so that they are of one build; PyPI's have CUDA in them.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --index-url ${TORCH_INDEX} torch torchvision

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY broker ./broker
COPY cli ./cli
COPY coordinator ./coordinator
COPY experiments ./experiments
COPY learning ./learning
COPY monitoring ./monitoring
COPY workers ./workers
RUN pip install .

FROM python:${PYTHON}
RUN useradd --uid 1000 --no-create-home splitee \
    && install --directory --owner=splitee /runs /state /work /work/data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["splitee"]
CMD ["--help"]
