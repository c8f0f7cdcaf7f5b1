variable "hosts" {
  description = "The PCs, by the topology's host names in lower case: where each is, and the adapter that its VMs are bridged with (on Linux the interface's name, on Windows the adapter's description; `VBoxManage list bridgedifs` shows them). What `ssh` says for all of them can be said here for one."
  type = map(object({
    address         = string
    port            = optional(number, 22)
    user            = optional(string)
    host_key        = optional(string)
    password        = optional(string)
    bridged_adapter = string
    vboxmanage      = optional(string)
  }))

  validation {
    condition     = length(setsubtract(distinct([for vm in yamldecode(file(var.topology)).vms : lower(vm.host)]), keys(var.hosts))) == 0
    error_message = "hosts lacks ${join(", ", setsubtract(distinct([for vm in yamldecode(file(var.topology)).vms : lower(vm.host)]), keys(var.hosts)))}, which the topology puts VMs on."
  }
}

variable "ssh" {
  description = "How Terraform logs in to the PCs: as the user that owns the VMs, with this private key unless a host has a password, and with each host's key in this known_hosts file unless it is given in `hosts`."
  type = object({
    user             = string
    private_key_file = optional(string)
    known_hosts_file = optional(string, "~/.ssh/known_hosts")
  })
}

variable "site_dir" {
  description = "The directory with this site's key pair (id_ed25519), where the inventory is written too."
  type        = string
}

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

variable "suite" {
  description = "The distribution's suite that the golden image is made of; this machine's apt sources must have it."
  type        = string
  default     = "bookworm"
}

variable "image" {
  description = "An .ova, .vmdk, .vdi or .vhd for the machines to start from; null builds the golden image."
  type        = string
  default     = null
}

variable "images" {
  description = "The same for the machines of another suite, by that suite, such as { sid = \"/srv/sid.ova\" }. One that is missing is made from the mirror (`mirror_url`) unless `image` is given; without either its topics are left out."
  type        = map(string)
  default     = {}
}

variable "skip" {
  description = "Topics under `suites` in the list of packages to do without: [\"mysql\"]. Said at every plan."
  type        = set(string)
  default     = []
}

variable "linked_clones" {
  description = "Whether the machines of a host share the image's blocks. Faster to make and smaller; the image must stay for as long as they live."
  type        = bool
  default     = false
}

variable "power" {
  description = "`running`, or `stopped` to make the machines without starting them: their network is then confirmed by a later apply."
  type        = string
  default     = "running"
}

variable "mirror_url" {
  description = "Where the machines find what this machine publishes in `mirror_dir`, such as `http://192.168.10.1`; null leaves them the apt sources of the image."
  type        = string
  default     = null
}

variable "mirror_dir" {
  description = "The directory that the mirror is published in, and that a web server on this machine shows as `mirror_url`."
  type        = string
  default     = "/var/cache/ondol/mirror"
}
