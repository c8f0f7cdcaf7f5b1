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

variable "skip" {
  description = "Topics under `suites` in the list of packages to do without, for example where that suite cannot be had: [\"mysql\"]. Said at every plan."
  type        = set(string)
  default     = []
}

variable "mirror_dir" {
  description = "The directory that the mirror is published in. Labs of this machine share it."
  type        = string
  default     = "/var/cache/ondol/mirror"
}

variable "mirror_pin" {
  description = "Snapshots to publish again instead of the newest, by the mirror's name: { site = \"20261122T212405Z-609278a7519c\" }. Output mirror_snapshots has them."
  type        = map(string)
  default     = {}
}

variable "mirror_transport" {
  description = "For a site without a line: mode export_archive writes each mirror to directory/NAME.tar, import_archive reads it from there and believes directory/site.asc."
  type        = object({ mode = string, directory = string })
  default     = null
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
