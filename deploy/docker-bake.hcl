# The image for two architectures, from the root of the repository:
#
#   docker buildx bake --file deploy/docker-bake.hcl                      # for both, kept in the builder
#   docker buildx bake --file deploy/docker-bake.hcl local                # for this host, into its images
#   TAG=registry.example.com/smtp2cf:1.2.3 VERSION=1.2.3 REVISION=$(git rev-parse HEAD) \
#     docker buildx bake --file deploy/docker-bake.hcl --push
#
# Wheels for both are pinned in requirements/image.txt, so nothing is compiled or emulated for long.

variable "TAG" {
  default = "smtp2cf:latest"
}

variable "VERSION" {
  default = "unknown"
}

variable "REVISION" {
  default = "unknown"
}

variable "BASE" {
  default = "python:3.13-slim"
}

group "default" {
  targets = ["image"]
}

target "image" {
  context    = "."
  dockerfile = "Dockerfile"
  args = {
    BASE     = BASE
    VERSION  = VERSION
    REVISION = REVISION
  }
  tags      = [TAG]
  platforms = ["linux/amd64", "linux/arm64"]
  # What it is made of, and how, is attached to it.
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "local" {
  inherits  = ["image"]
  platforms = []
  attest    = []
  output    = ["type=docker"]
}
