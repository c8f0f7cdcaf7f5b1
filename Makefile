# Ondol's commands. `make` alone lists them. Every target can be run again; none asks a question.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# ---- what a user may set ------------------------------------------------------------------------------------------------
LAB      ?= ondol
TOPOLOGY ?= terraform/topology.yaml
# "all", or numbers: "3 4". A stage brings the stages that it stands on.
STAGES   ?= all
# Topics under `suites` in terraform/packages.yaml to do without, where that suite cannot be had: "mysql".
SKIP     ?=
# A file of variables, best kept in Ansible's vault, for passwords that are not to be generated.
SECRETS  ?=
SITE     ?= .ondol/$(LAB)
REPORT   ?= target/report$(if $(filter-out ondol,$(LAB)),-$(LAB))

# ---- where things are ---------------------------------------------------------------------------------------------------
site     := $(abspath $(SITE))
report   := $(abspath $(REPORT))
stamps   := target/stamps
release  := target/release
venv     := target/ansible/2.19
venvs    := target/ansible/2.16 $(venv)
mirror   := $(abspath target/terraform/mirror)
collections := $(abspath target/ansible)
version  := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

# Under sudo the build stays the caller's: a toolchain in a home directory is found, and target/ keeps its owner.
caller      := $(if $(SUDO_USER),$(SUDO_USER),$(shell id -un))
caller_home := $(shell getent passwd $(caller) | cut -d: -f6)
as_caller   := $(if $(SUDO_USER),sudo -u $(caller) -H --) env "PATH=$(caller_home)/.cargo/bin:$(PATH)"
cargo       := $(as_caller) cargo
terraform   := $(shell PATH="$(PATH):/usr/local/bin:$(caller_home)/bin:$(caller_home)/.local/bin" command -v terraform)

apt_build := gcc libc6-dev
apt_lab   := systemd-container mmdebstrap iproute2 openssh-client python3-venv ca-certificates
apt_test  := openssh-server chromium binutils sudo gnupg docker-registry skopeo postgresql-15 qemu-system-x86 ovmf e2fsprogs
apt_bench := apt-mirror debmirror aptly apt-utils nginx-light time xz-utils

sources := $(shell find provider modules tests -name '*.rs' -o -name '*.proto' -o -name Cargo.toml -o -path '*/fixtures/*' -type f) Cargo.toml Cargo.lock
say = @printf '\n\033[1m%s\033[0m\n' $(1)

# Every stage from the fifth on installs from the mirror (3), and verification asks each machine for its identity (4).
stages := $(sort $(STAGES) $(if $(filter-out all,$(STAGES)),4) $(if $(filter-out all 3 4,$(STAGES)),3))

# Terraform and Ansible as `make lab` calls them; $(SITE)/env gives a person's shell the same.
in_site = . $(site)/env &&
tf_options = -input=false -compact-warnings -parallelism=40

# ---- the commands -------------------------------------------------------------------------------------------------------
.PHONY: help lab plan test check bench docs install lab-destroy build
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

lab: root $(site)/env ## everything: tools, build, image, 40 VMs, every stage that exists, verification, report
	$(call say,"Terraform: image$(comma) VMs$(comma) addresses$(comma) inventory")
	@$(in_site) $(MAKE) --no-print-directory init
	@$(in_site) terraform -chdir=terraform/lab plan $(tf_options) -no-color -out=$(site)/plan >$(site)/plan.log 2>&1 || { cat $(site)/plan.log; exit 1; }
	@grep -E '^(Plan:|No changes[.]|Changes to Outputs:|Warnings:|- )' $(site)/plan.log || true; echo "The whole plan: $(SITE)/plan.log"
	@$(in_site) terraform -chdir=terraform/lab apply $(tf_options) $(site)/plan
	$(call say,"Ansible: the stages$(comma) then verification")
	@$(in_site) ansible-playbook playbooks/site.yml $(if $(filter-out all,$(STAGES)),--tags $(subst $(space),$(comma),$(addprefix stage,$(stages)) verify)) $(if $(SECRETS),-e @$(abspath $(SECRETS)))
	@printf '\n\033[1mDone.\033[0m  The page: %s\n       Next:      . %s; ondol-lab ls\n' "$(report)/index.html" "$(SITE)/env"

plan: root $(site)/env ## what `make lab` would change in the VMs, addresses and inventory
	@$(in_site) $(MAKE) --no-print-directory init && terraform -chdir=terraform/lab plan $(tf_options)

lab-destroy: root $(release)/ondol-lab ## the lab and everything of it gone; downloads and images stay in /var/cache/ondol
	@$(release)/ondol-lab --lab "$(LAB)" destroy --yes
	@rm -rf "$(site)" "$(report)/sections"
	@echo "lab $(LAB) is gone"

test: root need-terraform apt-test build $(venvs:=/bin/ansible-playbook) collection nextest ## every test, as CI runs it
	$(call say,"Format$(comma) lint$(comma) generated documents")
	@$(cargo) fmt --all --check
	@$(cargo) clippy --workspace --all-targets --release --quiet -- -D warnings
	@$(MAKE) --no-print-directory docs-check
	$(call say,"Tests")
	@$(test_env) $(nextest) run --workspace --release --profile ci

check: nextest ## format, lint and unit tests: the quick loop
	@$(cargo) fmt --all --check
	@$(cargo) clippy --workspace --all-targets --quiet -- -D warnings
	@$(nextest) run --workspace --lib --bins
	@$(cargo) run --quiet --bin ondol-docs -- --check docs/provider
	@$(cargo) run --quiet --bin ondol-module -- --check-reference docs/modules

bench: root need-terraform apt-test apt-bench build $(venv)/bin/ansible-playbook collection ## measured figures and ratios, printed and in target/bench.json; BENCH="task site" narrows it
	@$(cargo) build --release --quiet -p ondol-mirror --features sync --examples
	@$(test_env) $(release)/ondol-bench --out target/bench.json $(BENCH)

docs: ## the generated reference in docs/
	@$(cargo) run --quiet --release --bin ondol-docs -- docs/provider
	@$(cargo) run --quiet --release --bin ondol-module -- --write-collection modules/collection
	@$(cargo) run --quiet --release --bin ondol-module -- --write-reference docs/modules

docs-check:
	@$(release)/ondol-docs --check docs/provider
	@$(release)/ondol-module --check-reference docs/modules

install: need-terraform build collection $(venv)/bin/ansible-playbook ## provider and collection for this user
	@dir="$${HOME}/.terraform.d/plugins/$$(cat target/terraform/host)/ondol/ondol/$(version)/linux_$(goarch)"; mkdir -p "$$dir"; \
	 install -m 0755 $(release)/terraform-provider-ondol "$$dir/terraform-provider-ondol_v$(version)"; echo "provider:   $$dir"
	@$(venv)/bin/ansible-galaxy collection install --force --no-deps $(collections)/ondol-cloud-$(version).tar.gz

# ---- the parts ----------------------------------------------------------------------------------------------------------
comma := ,
space := $(subst ,, )
goarch := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
nextest := $(as_caller) $(if $(shell $(as_caller) cargo nextest --version 2>/dev/null),cargo nextest,$(abspath target/tools/bin/cargo-nextest) nextest)
test_env := env "PATH=$(abspath $(venv))/bin:$(abspath $(release)):$(dir $(terraform)):$(PATH)" ONDOL_BIN_DIR="$(abspath $(release))"

.PHONY: root need-cargo need-terraform apt-build apt-lab apt-test apt-bench collection nextest init docs-check site-env
root:
	@test "$$(id -u)" = 0 || { echo "this needs root, for network namespaces and mounts: sudo make $(MAKECMDGOALS)"; exit 1; }

need-cargo:
	@$(as_caller) which cargo >/dev/null || { echo "cargo is missing. Install Rust 1.90 or newer with rustup (as $(caller)), so that '$(caller_home)/.cargo/bin/cargo' or a cargo on PATH exists, then run this again."; exit 1; }

need-terraform:
	@test -n "$(terraform)" || { echo "terraform is missing. Put the terraform binary, 1.11 or newer, on PATH (for example in /usr/local/bin), then run this again."; exit 1; }

# Asks dpkg first, so that a machine that has everything needs no network. QEMU's packages must be of one version: a newer
# qemu-utils, from backports, would stand against the release's emulator.
define apt_install
	@missing=(); for p in $(1); do dpkg-query -W -f='$${db:Status-Abbrev}' "$$p" 2>/dev/null | grep -q '^ii' || missing+=("$$p"); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "missing packages: $${missing[*]} — install them, or run this with sudo"; exit 1; }; \
	  echo "installing $${missing[*]}"; export DEBIAN_FRONTEND=noninteractive; \
	  case " $${missing[*]} " in *" qemu-system-x86 "*) missing+=("qemu-utils/$$(. /etc/os-release; echo "$$VERSION_CODENAME")");; esac; \
	  for try in 1 2 3; do apt-get -qq update && apt-get -qq install -y --no-install-recommends --allow-downgrades "$${missing[@]}" >/dev/null && exit 0; sleep 5; done; \
	  echo "apt-get could not install: $${missing[*]}"; exit 1; fi
endef
apt-build: ; $(call apt_install,$(apt_build))
apt-lab: ; $(call apt_install,$(apt_lab))
apt-test: ; $(call apt_install,$(apt_build) $(apt_lab) $(apt_test))
apt-bench: ; $(call apt_install,$(apt_bench))

# The caller owns target/, so that a later build without sudo works.
target:
	@$(as_caller) mkdir -p $(stamps)

build: need-cargo apt-build | target
	@$(cargo) build --workspace --release --bins --quiet
	@$(MAKE) --no-print-directory $(mirror)/.provider

nextest: need-cargo apt-build | target
	@$(as_caller) cargo nextest --version >/dev/null 2>&1 || test -x target/tools/bin/cargo-nextest || \
	 { echo "building cargo-nextest, once"; $(cargo) install --quiet --locked cargo-nextest --root target/tools; }

$(release)/ondol-lab: $(sources) | need-cargo apt-build target
	@$(cargo) build --release --bin ondol-lab --quiet && touch $@

# Terraform's directory for local providers is named after its default registry's host: ask terraform for that name.
target/terraform/host: | need-terraform target
	@mkdir -p target/terraform/probe
	@printf 'terraform {\n  required_providers {\n    ondol = { source = "ondol/ondol" }\n  }\n}\n' > target/terraform/probe/main.tf
	@touch target/terraform/empty.rc
	@TF_CLI_CONFIG_FILE=$(abspath target/terraform/empty.rc) $(terraform) -chdir=target/terraform/probe providers | sed -n 's:.*\[\(.*\)/ondol/ondol\].*:\1:p' | head -n 1 > $@
	@test -s $@ || { echo "terraform did not tell its provider host"; exit 1; }

$(mirror)/.provider: $(release)/terraform-provider-ondol target/terraform/host
	@dir="$(mirror)/$$(cat target/terraform/host)/ondol/ondol/$(version)/linux_$(goarch)"; mkdir -p "$$dir"; \
	 install -m 0755 $(release)/terraform-provider-ondol "$$dir/terraform-provider-ondol_v$(version)"
	@touch $@

target/ansible/%/bin/ansible-playbook: modules/collection/requirements/ansible-core-%.txt | apt-lab target
	@echo "installing Ansible ($<)"
	@rm -rf target/ansible/$* && /usr/bin/python3 -m venv target/ansible/$* && target/ansible/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

collection: build $(venv)/bin/ansible-playbook
	@ANSIBLE_GALAXY=$(abspath $(venv))/bin/ansible-galaxy modules/collection/build $(release)/ondol-module $(collections) >/dev/null

# One directory per lab: Terraform's state, keys, inventory, and the environment that Terraform and Ansible need.
$(site)/env: FORCE | need-terraform apt-lab build collection $(venv)/bin/ansible-playbook
	@mkdir -p -m 0700 $(site) $(site)/secrets
	@test -f $(site)/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -C "ondol lab $(LAB)" -f $(site)/id_ed25519
	@printf 'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$(mirror)" > $(site)/terraformrc
	@{ echo '# The environment of this lab for a shell: . $(SITE)/env'; \
	   echo 'export PATH="$(abspath $(venv))/bin:$(abspath $(release)):$(dir $(terraform)):$$PATH"'; \
	   echo 'export ONDOL_LAB="$(LAB)"'; \
	   echo 'export TF_CLI_CONFIG_FILE="$(site)/terraformrc" TF_DATA_DIR="$(site)/terraform" TF_IN_AUTOMATION=1'; \
	   echo 'export TF_VAR_lab="$(LAB)" TF_VAR_site_dir="$(site)" TF_VAR_topology="$(abspath $(TOPOLOGY))"'; \
	   echo 'export TF_VAR_skip='"'"'[$(subst $(space),$(comma),$(foreach topic,$(SKIP),"$(topic)"))]'"'"; \
	   echo 'export ANSIBLE_CONFIG="$(abspath playbooks)/ansible.cfg" ANSIBLE_INVENTORY="$(site)/inventory.yml"'; \
	   echo 'export ANSIBLE_COLLECTIONS_PATH="$(collections)" ONDOL_REPORT="$(report)"'; } > $@

# The site's environment and Terraform's working directory, without applying anything.
site-env: root $(site)/env
	@$(in_site) $(MAKE) --no-print-directory init

# A locally built provider has no published checksum: the lock file that names another build's is made anew. It is one for all labs.
tf_init = terraform -chdir=terraform/lab init -input=false -reconfigure -backend-config="path=$(site)/terraform.tfstate" >$(site)/init.log 2>&1
init: | target
	@exec 9>target/init.lock; flock 9; $(tf_init) || { rm -f terraform/lab/.terraform.lock.hcl; $(tf_init); } || { cat $(site)/init.log; exit 1; }

.PHONY: FORCE
FORCE:
