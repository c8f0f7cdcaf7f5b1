variable "path" {
  description = "The path of the list of packages."
  type        = string
}

variable "topology" {
  description = "The checked topology: what provider::ondol::topology makes of terraform/topology.yaml."
  type        = object({ vms = map(object({ groups = list(string) })) })
}

variable "skip" {
  description = "Topics under `suites` that are left out: their machines are as all others, and do without them."
  type        = set(string)
  default     = []
}
