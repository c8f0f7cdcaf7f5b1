//! `ondol_vm`: a VM on a host.
//!
//! It makes the machine and keeps its shape and power as wanted. What runs inside, its final address
//! included, is not its concern: that is `ondol_netplan`'s and Ansible's.

mod act;
mod convert;
mod interfaces;
mod model;
mod moved;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, MoveSource, Operation, Planned,
    Resource, path,
};

pub(super) use self::act::finish;
use self::act::{Unstarted, bring_to, refresh, start};
use self::convert::check_word;
pub use self::model::{
    Disk, Folder, Identity, Interface, LabModel, Model, PortForward, Power, SeedModel, SeedNetwork,
    WaitFor,
};
use self::plan::{another_disk, another_seed, judge, plan, protected, refuse_replacement};
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{BootDevice, Chipset, Engine, Firmware, PowerState, VmSpec};
use crate::topology::bad_label;

pub struct VmResource;

impl Resource for VmResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = Identity;
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_vm";
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME or HOST/UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(Duration::from_secs(600));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(name) = config.name.known()
            && let Some(reason) = bad_label(name)
        {
            diagnostics.error(
                path!["name"],
                format!("{name:?} is not a DNS label"),
                format!("The name becomes the guest's host name: {reason}."),
            );
        }
        for (attribute, value, why) in [
            (
                "memory_mib",
                config.memory_mib.known().copied(),
                "A VM needs memory: give its size in MiB.",
            ),
            (
                "cpus",
                config.cpus.known().map(|&cpus| cpus.into()),
                "A VM needs at least one CPU.",
            ),
        ] {
            if value == Some(0) {
                diagnostics.error(path![attribute], format!("{attribute} is 0"), why);
            }
        }
        for (name, attribute, words) in [
            ("firmware", &config.firmware, Firmware::WORDS),
            ("chipset", &config.chipset, Chipset::WORDS),
        ] {
            check_word(diagnostics, path![name], attribute, words);
        }
        for (index, word) in config.boot_order.known().into_iter().flatten().enumerate() {
            let at = path!["boot_order", index];
            check_word(diagnostics, at, &word.clone().into(), BootDevice::WORDS);
        }
        for (index, interface) in config
            .network_interfaces
            .known()
            .into_iter()
            .flatten()
            .enumerate()
        {
            interface.validate(&path!["network_interfaces", index], diagnostics);
        }
        if let Some(network) = config.seed.known().and_then(|seed| seed.network.known()) {
            network.validate(&path!["seed", "network"], diagnostics);
        }
        for (key, disk) in config.disks.known().into_iter().flatten() {
            if disk.size_mib.known() == Some(&0) {
                diagnostics::complain(
                    diagnostics,
                    path!["disks", tfplugin::Key(key), "size_mib"],
                    format!("The disk {key:?} has no size"),
                    "Give its size in MiB.",
                );
            }
        }
    }

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        let mut planned = Planned::from(plan(prior, planned));
        let Some(prior) = prior else { return planned };
        if another_disk(prior, &planned.model) {
            planned.model.disk_image = Attr::Unknown;
            // Terraform heeds only what differs, and `image` may have been noted by an earlier apply.
            planned = planned.replace(path!["image"]).replace(path!["disk_image"]);
        }
        planned
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        mut planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let Some(host) = planned
            .model
            .host
            .known()
            .filter(|_| cx.context().is_known())
        else {
            return Ok(planned);
        };
        let engine = cx.context().engine(host, path!["host"])?;
        let wanted = planned.model.spec();
        if let Some(spec) = &wanted {
            engine
                .validate(spec)
                .map_err(|error| diagnostics::engine(&error))?;
        }
        let Some(prior) = prior else {
            if planned.model.seed.is_null() {
                return Err(unseeded(&planned.model).into());
            }
            cx.wait(engine.check())
                .await
                .map_err(Diagnostic::from)?
                .map_err(|error| diagnostics::engine(&error))?;
            if let Some(spec) = &wanted {
                cx.wait(engine.check_wish(spec))
                    .await
                    .map_err(Diagnostic::from)?
                    .map_err(|error| diagnostics::engine(&error))?;
            }
            return Ok(planned);
        };
        if prior.host.is_null() {
            return Err(unseen(prior).into());
        }
        if engine.seed_replaces() && another_seed(prior, &planned.model) {
            planned = planned.replace(path!["seed"]);
        }
        if let (Some(current), Some(wanted)) = (prior.spec(), wanted) {
            // Whether another image means anything was decided without the engine.
            let wanted = VmSpec {
                image: current.image.clone(),
                seed: match planned.model.seed {
                    Attr::Null => current.seed.clone(),
                    _ => wanted.seed,
                },
                ..wanted
            };
            let running = prior.state.as_str() == Some("running")
                && planned.model.wanted_power() == PowerState::Running;
            let verdict = judge(
                &engine.plan_update(&current, &wanted),
                &planned.model,
                running,
            )?;
            for warning in verdict.warnings {
                cx.warn(warning);
            }
            planned.replace.extend(verdict.replace);
        }
        if prior.protected == true.into() {
            refuse_replacement(prior, &planned)?;
        }
        Ok(planned)
    }

    fn plan_delete(prior: &Model, diagnostics: &mut Diagnostics) {
        if prior.protected == true.into() {
            diagnostics.push(protected(prior));
        }
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        if planned.seed.is_null() {
            return Err(unseeded(&planned).into());
        }
        let spec = require_spec(&planned)?;
        let vm = finish(cx, engine.create(&spec))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let made = planned.observed(engine.host(), &vm);
        cx.keep(&made);
        if made.wanted_power() == PowerState::Stopped {
            return Ok(made);
        }
        match start(cx, &engine, made.clone(), &vm).await {
            Ok(model) => Ok(model),
            // An error here would taint the VM and throw it away at the next apply. It exists and is whole: keep it, say so.
            Err(Unstarted::Interrupted(interrupted)) => {
                cx.warn(
                    Diagnostic::warning(format!(
                        "VM {} is made, but was not waited for",
                        made.label()
                    ))
                    .detail(format!(
                        "{} It is in the state; run terraform apply again.",
                        diagnostics::sentence(&interrupted.to_string())
                    )),
                );
                Ok(refresh(&engine, made).await)
            }
            Err(Unstarted::Failed(diagnostic)) => {
                let detail = format!(
                    "{} The VM is in the state, tainted: once it can start, `terraform untaint` keeps it, and another apply alone makes it anew.",
                    diagnostics::sentence(&diagnostic.detail)
                );
                Err(Failure::partial(
                    refresh(&engine, made).await,
                    diagnostic.detail(detail),
                ))
            }
        }
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let id = require_id(&state)?;
        let engine = if state.host.is_null() {
            match moved::find_host(cx, &id).await? {
                Some(engine) => engine,
                None => return Ok(None),
            }
        } else {
            engine_of(cx, &state)?
        };
        let found = cx
            .wait(engine.observe(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let Some(vm) = found else { return Ok(None) };
        if !vm.acknowledged {
            engine
                .acknowledge(&id)
                .await
                .map_err(|error| diagnostics::engine(&error))?;
        }
        Ok(Some(state.observed(engine.host(), &vm)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        let (id, spec) = (require_id(&prior)?, require_spec(&planned)?);
        let planned = Model {
            id: prior.id.clone(),
            ..planned
        };
        let result = bring_to(cx, &engine, &id, &spec, planned.clone()).await;
        match result {
            Ok(model) => Ok(model),
            Err(unstarted) => {
                let diagnostic = match unstarted {
                    Unstarted::Failed(diagnostic) => diagnostic,
                    Unstarted::Interrupted(interrupted) => interrupted.into(),
                };
                // What was changed until then is found out by looking, not by guessing.
                match engine.observe(&id).await {
                    Ok(Some(vm)) => Err(Failure::partial(
                        prior.observed(engine.host(), &vm),
                        diagnostic,
                    )),
                    _ => Err(diagnostic.into()),
                }
            }
        }
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        if state.protected == true.into() {
            return Err(protected(&state).into());
        }
        let engine = engine_of(cx, &state)?;
        let id = require_id(&state)?;
        Ok(finish(cx, engine.delete(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?)
    }

    async fn import(cx: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let Some((host, vm)) = id
            .split_once('/')
            .filter(|(host, vm)| !host.is_empty() && !vm.is_empty())
        else {
            return Err(Diagnostic::error(format!("{id:?} does not name a VM"))
                .detail("Write HOST/NAME or HOST/UUID, for example srv-01/dns-server. HOST is a key of the provider's `hosts`.")
                .into());
        };
        import(cx, host, vm).await
    }

    async fn import_by_identity(
        cx: &Operation<Cloud>,
        identity: Identity,
    ) -> Result<Model, Diagnostics> {
        let host = identity.host.require(path!["host"])?;
        let id = identity.id.require(path!["id"])?;
        import(cx, host, id).await
    }

    fn move_from(source: &MoveSource) -> Option<Result<Model, Diagnostics>> {
        moved::from_terra_farm(source)
    }

    fn identity(state: &Model) -> Option<Identity> {
        Some(Identity {
            host: state.host.known()?.clone().into(),
            id: state.id.known()?.clone().into(),
        })
    }
}

fn engine_of(cx: &Operation<Cloud>, model: &Model) -> Result<Arc<dyn Engine>, Diagnostic> {
    cx.context()
        .engine(model.host.require(path!["host"])?, path!["host"])
}

fn unseeded(model: &Model) -> Diagnostic {
    Diagnostic::error(format!("VM {} has no seed", model.label()))
        .detail("A VM that exists can be left alone, but nobody could enter a new one: give it a user and a public key.")
        .at(path!["seed"])
}

/// A moved VM that was not refreshed: its host is not known, and a plan would take that for another host.
fn unseen(model: &Model) -> Diagnostic {
    Diagnostic::error(format!(
        "VM {:?} was moved, but not looked at yet",
        model.name.as_str().unwrap_or_default()
    ))
    .detail("Which host has it is found out by looking. Plan without -refresh=false.")
}

fn require_id(model: &Model) -> Result<String, Diagnostic> {
    model.id.require(path!["id"]).cloned()
}

fn require_spec(model: &Model) -> Result<VmSpec, Diagnostic> {
    model.spec().ok_or_else(|| {
        Diagnostic::error(format!("VM {} is not fully described", model.label()))
            .detail("An attribute that decides what the VM is has no value at apply time. This is a bug in the provider.")
    })
}

async fn import(cx: &Operation<Cloud>, host: &str, id_or_name: &str) -> Result<Model, Diagnostics> {
    let engine = cx.context().engine(host, tfplugin::Path::root())?;
    let found = cx
        .wait(engine.observe(id_or_name))
        .await
        .map_err(Diagnostic::from)?
        .map_err(|error| diagnostics::engine(&error))?;
    let vm = found.ok_or_else(|| {
        Diagnostic::error(format!("Host {host:?} has no VM {id_or_name:?}"))
            .detail("Import names a VM by its name or its UUID. The data source ondol_vms lists what the host has.")
    })?;
    Ok(Model::default().observed(host, &vm))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::plan::Verdict;
    use super::*;
    use crate::engine::{Change, Impact, Vm};

    fn model() -> Model {
        Model {
            host: "srv-01".into(),
            name: "web-01".into(),
            image: "/images/a/rootfs".into(),
            cpus: 1.into(),
            memory_mib: 256.into(),
            disks: BTreeMap::new().into(),
            seed: SeedModel {
                user: "ondol".into(),
                authorized_keys: vec!["ssh-ed25519 AAAA me\n".to_owned()].into(),
                sudo: true.into(),
                network: Attr::Null,
            }
            .into(),
            linked_clone: false.into(),
            power: Power::Running.into(),
            wait_for: WaitFor::None.into(),
            protected: false.into(),
            ..Model::default()
        }
    }

    fn vm(model: &Model) -> Vm {
        Vm {
            id: uuid::Uuid::from_u128(7),
            spec: model.spec().unwrap(),
            state: PowerState::Running,
            first_boot_address: "169.254.7.7".parse().unwrap(),
            confirmed_address: None,
            ssh_host_key: "ssh-ed25519 BBBB".to_owned(),
            mac_addresses: vec!["08:00:27:00:00:01".to_owned()],
            acknowledged: true,
            has_hardware: false,
        }
    }

    #[test]
    fn what_says_the_same_in_other_words_is_no_difference() {
        let wanted = model();
        let found = wanted.clone().observed("srv-01", &vm(&wanted));
        assert_eq!(found.disks, wanted.disks);
        assert_eq!(found.seed, wanted.seed);
        assert_eq!(found.state, "running".into());
    }

    fn planned(prior: &Model, change: impl FnOnce(&mut Model)) -> Planned<Model> {
        let mut model = prior.clone();
        change(&mut model);
        let (config, mut diagnostics) = (model.clone(), Diagnostics::new());
        VmResource::plan(Some(prior), model, &config, &mut diagnostics)
    }

    #[test]
    fn another_image_is_noted_and_replaces_the_vm_only_where_that_is_asked_for() {
        let old = "/images/a/rootfs";
        let prior = |image: &str| Model {
            image: image.into(),
            disk_image: old.into(),
            replace_on_image_change: false.into(),
            state: "running".into(),
            ..model()
        };
        let cases: [(Model, Attr<String>, bool, bool); 8] = [
            (prior(old), "/images/b/rootfs".into(), false, false),
            (prior(old), Attr::Unknown, false, false),
            (prior(old), "/images/b/rootfs".into(), true, true),
            (prior(old), Attr::Unknown, true, true),
            (prior(old), old.into(), true, false),
            (prior(old), "/images/a//rootfs/".into(), true, false),
            // Noted by an earlier apply; and back again.
            (
                prior("/images/b/rootfs"),
                "/images/b/rootfs".into(),
                true,
                true,
            ),
            (prior("/images/b/rootfs"), old.into(), true, false),
        ];
        for (prior, image, asked, replaced) in cases {
            let planned = planned(&prior, |model| {
                model.image = image.clone();
                model.replace_on_image_change = asked.into();
            });
            assert_eq!(!planned.replace.is_empty(), replaced, "{image:?}, {asked}");
            assert_eq!(
                planned.model.disk_image,
                if replaced { Attr::Unknown } else { old.into() },
                "{image:?}, {asked}"
            );
        }
        let before_disk_image = Model {
            disk_image: Attr::Null,
            ..prior(old)
        };
        let asked = |model: &mut Model| model.replace_on_image_change = true.into();
        assert_eq!(planned(&before_disk_image, asked).replace, []);
    }

    #[test]
    fn what_is_found_tells_the_disks_image_and_leaves_the_wish_alone() {
        let wanted = model();
        let mut older = vm(&wanted);
        older.spec.image = "/images/older/rootfs".into();
        let found = wanted.observed("srv-01", &older);
        assert_eq!(
            (found.image, found.disk_image),
            ("/images/a/rootfs".into(), "/images/older/rootfs".into())
        );
    }

    #[test]
    fn a_change_behind_terraforms_back_is_seen() {
        let wanted = model();
        let mut changed = vm(&wanted);
        changed.state = PowerState::Stopped;
        changed.spec.memory_mib = 128;
        changed.spec.disks.insert("extra".to_owned(), 64);
        let found = wanted.observed("srv-01", &changed);
        assert_eq!(found.state, "stopped".into());
        assert_eq!(found.memory_mib, 128.into());
        assert_eq!(found.disks.known().unwrap()["extra"].size_mib, 64.into());
    }

    #[test]
    fn an_import_gives_every_attribute_a_value_that_a_plain_configuration_has() {
        let mut plain = model();
        plain.disks = Attr::Null;
        let imported = Model::default().observed("srv-01", &vm(&plain));
        assert_eq!(
            (
                imported.disks.is_null(),
                imported.lab.is_null(),
                imported.network_interfaces.is_null()
            ),
            (true, true, true)
        );
        assert_eq!(
            (imported.image, imported.disk_image),
            ("/images/a/rootfs".into(), "/images/a/rootfs".into())
        );
        assert_eq!(imported.replace_on_image_change, false.into());
        assert_eq!(
            (imported.power, imported.wait_for, imported.protected),
            (Power::Running.into(), WaitFor::None.into(), false.into())
        );
        assert_eq!(imported.id, uuid::Uuid::from_u128(7).to_string().into());
    }

    #[test]
    fn a_stopped_vm_is_planned_back_to_running_and_a_new_one_promises_nothing() {
        let prior = Model {
            state: "stopped".into(),
            ..model()
        };
        assert_eq!(plan(Some(&prior), prior.clone()).state, "running".into());
        let running = Model {
            state: "running".into(),
            ..model()
        };
        assert_eq!(plan(Some(&running), running.clone()), running);
        assert_eq!(plan(None, model()).state, Attr::Unknown);
    }

    #[test]
    fn another_seed_replaces_the_vm_and_the_same_in_other_words_does_not() {
        let with = |change: fn(&mut SeedModel)| {
            let mut model = model();
            change(model.seed.known_mut().unwrap());
            model
        };
        type Edit = fn(&mut SeedModel);
        let cases: [(Edit, bool); 4] = [
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 AAAA me".to_owned()].into(),
                false,
            ),
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 BBBB me".to_owned()].into(),
                true,
            ),
            (|seed| seed.sudo = false.into(), true),
            (|seed| seed.user = Attr::Unknown, true),
        ];
        for (change, expected) in cases {
            assert_eq!(another_seed(&model(), &with(change)), expected);
        }
    }

    #[test]
    fn an_unknown_part_makes_the_spec_unknown() {
        assert!(model().spec().is_some());
        for change in [
            (|m: &mut Model| m.image = Attr::Unknown) as fn(&mut Model),
            |m| m.disks = Attr::Unknown,
            |m| m.lab = Attr::Unknown,
            |m| {
                m.disks = BTreeMap::from([(
                    "d".to_owned(),
                    Disk {
                        size_mib: Attr::Unknown,
                    },
                )])
                .into()
            },
        ] {
            let mut changed = model();
            change(&mut changed);
            assert_eq!(changed.spec(), None);
        }
    }

    fn change(field: &[&str], impact: Impact) -> Change {
        Change {
            field: field.iter().map(|&step| step.to_owned()).collect(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            impact,
        }
    }

    #[test]
    fn the_engines_verdict_becomes_warnings_replacements_and_errors() {
        let none: Result<Verdict, Diagnostics> = Ok(Verdict::default());
        assert_eq!(
            judge(&[change(&["memory_mib"], Impact::Live)], &model(), true),
            none
        );
        let restart = [change(&["network_interfaces"], Impact::Restart)];
        assert_eq!(judge(&restart, &model(), true).unwrap().warnings.len(), 1);
        assert_eq!(judge(&restart, &model(), false), none);
        let replace = judge(
            &[change(&["seed", "user"], Impact::Replace)],
            &model(),
            true,
        )
        .unwrap();
        assert_eq!(replace.replace, [path!["seed"]]);
        let refused = judge(
            &[change(
                &["disks", "data", "size_mib"],
                Impact::Refused("no".to_owned()),
            )],
            &model(),
            true,
        );
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.iter().next().unwrap().path,
            path!["disks", tfplugin::Key("data"), "size_mib"]
        );
    }

    #[test]
    fn a_protected_vm_is_neither_replaced_nor_destroyed() {
        let prior = Model {
            protected: true.into(),
            ..model()
        };
        let grown = Planned::from(Model {
            memory_mib: 512.into(),
            ..prior.clone()
        });
        assert!(refuse_replacement(&prior, &grown).is_ok());
        let moved = Planned::from(Model {
            host: "srv-02".into(),
            ..prior.clone()
        });
        assert_eq!(
            refuse_replacement(&prior, &moved).unwrap_err().path,
            path!["protected"]
        );
        let mut diagnostics = Diagnostics::new();
        VmResource::plan_delete(&prior, &mut diagnostics);
        assert!(diagnostics.has_error());
    }

    #[test]
    fn impossible_sizes_and_names_are_refused_with_the_attribute() {
        let mut wrong = model();
        wrong.name = "Web_01".into();
        wrong.memory_mib = 0.into();
        wrong.cpus = 0.into();
        wrong.disks = BTreeMap::from([("data".to_owned(), Disk { size_mib: 0.into() })]).into();
        let mut diagnostics = Diagnostics::new();
        VmResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(
            paths,
            ["name", "memory_mib", "cpus", "disks[\"data\"].size_mib"]
        );
    }
}
