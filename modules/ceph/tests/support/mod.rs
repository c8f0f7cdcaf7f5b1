//! Three VMs with Ceph's packages, a disk and an address each.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;

use ondol_test_lab::{DiskSpec, VmSpec, debian_with, image};
pub(crate) use ondol_test_lab::{answer, argv, eventually, input};
use serde_json::{Value, json};

pub(crate) const VMS: [(&str, &str); 3] = [
    ("ceph-01", "192.168.10.81"),
    ("ceph-02", "192.168.10.82"),
    ("ceph-03", "192.168.10.83"),
];

const PACKAGES: [&str; 7] = [
    "ceph-mon",
    "ceph-mgr",
    "ceph-osd",
    "ceph-mds",
    "ceph-common",
    "ceph-fuse",
    "radosgw",
];

pub(crate) struct TestLab(ondol_test_lab::TestLab);

impl TestLab {
    pub(crate) fn new(name: &str) -> Self {
        let lab = ondol_test_lab::TestLab::open(name).expect("tests of the lab run as root");
        let image = image(&debian_with(&PACKAGES));
        for (index, (vm, address)) in VMS.into_iter().enumerate() {
            lab.launch(&spec(vm, index, &image));
            lab.sh(
                vm,
                &format!(
                    "d=/etc/systemd/network/70-ondol-first-boot.network.d; mkdir -p $d; \
                     printf '[Address]\\nAddress={address}/24\\n' > $d/site.conf"
                ),
            );
        }
        for (vm, address) in VMS {
            lab.wait_booted(vm);
            lab.sh(vm, "networkctl reload");
            eventually("the address is there", || {
                lab.sh(vm, "ip -br address").contains(address)
            });
        }
        Self(lab)
    }

    /// The module's answer, run in the VM as Ansible runs it. `flags` are `check` or empty.
    pub(crate) fn module(&self, vm: &str, name: &str, args: &Value, flags: &str) -> Value {
        let mut args = args.clone();
        args["_ansible_check_mode"] = json!(flags == "check");
        self.call(vm, name, &args)
    }
}

impl Deref for TestLab {
    type Target = ondol_test_lab::TestLab;

    fn deref(&self) -> &ondol_test_lab::TestLab {
        &self.0
    }
}

fn spec(name: &str, index: usize, image: &Path) -> VmSpec {
    VmSpec {
        host: format!("srv-{:02}", index + 1),
        cpus: 2,
        disks: BTreeMap::from([("osd".to_owned(), DiskSpec { size_mib: 4096 })]),
        ..ondol_test_lab::spec(name, image)
    }
}
