variable "topology" {
  description = "The path of the topology file."
  type        = string
  default     = "../topology.yaml"
}

variable "packages" {
  description = "The path of the list of packages that the machines may install."
  type        = string
  default     = "../packages.yaml"
}

variable "mirror_dir" {
  description = "The directory that the mirror is published in. Labs of this machine share it."
  type        = string
  default     = "/var/cache/ondol/mirror"
}

variable "lab" {
  description = "The lab's name: its network namespace, directories and control groups are named after it."
  type        = string
  default     = "ondol"
}

variable "suite" {
  description = "The distribution's suite that the golden image is made of; this machine's apt sources must have it."
  type        = string
  default     = "bookworm"
}

variable "site_dir" {
  description = "The directory with this site's key pair (id_ed25519), where the inventory is written too."
  type        = string
}
