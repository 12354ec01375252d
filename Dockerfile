FROM python:3.12.12-slim-bookworm

# KubeRay asks its nodes how they are by wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home searchsvc
WORKDIR /opt/searchsvc
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY searchsvc searchsvc
COPY pruners pruners
COPY studies studies
COPY db db
RUN pip install --no-cache-dir --constraint constraints.txt '.[postgres]'

USER searchsvc
ENV HOME=/home/searchsvc HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
WORKDIR /home/searchsvc
CMD ["searchsvc", "--help"]
