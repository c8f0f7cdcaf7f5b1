//! What turns a VM's network adapters into those that are wished. Pure.

use super::{ABSENT, Act, Impact, Step, path, set};
use crate::command::{Attachment, Control, Setting};
use crate::spec::{Adapter, VmSpec, plain_mac};

pub(super) fn plan_adapters(
    current: &VmSpec,
    desired: &VmSpec,
    default: &Attachment,
    steps: &mut Vec<Step>,
) {
    let have = current.effective_adapters(default);
    let want = desired.effective_adapters(default);
    for index in 0..have.len().max(want.len()) {
        let slot = u32::try_from(index + 1).expect("there are eight");
        let position = index.to_string();
        match (have.get(index), want.get(index)) {
            (Some(have), Some(want)) => plan_adapter(have, want, slot, &position, steps),
            (None, Some(want)) => steps.push(Step {
                field: path(&["network_interfaces", &position]),
                from: ABSENT.to_owned(),
                to: show_adapter(want),
                impact: Impact::Restart,
                act: Act::Set {
                    stopped: adapter_settings(slot, want),
                    running: Vec::new(),
                },
            }),
            (Some(have), None) if have.attachment == Some(Attachment::Absent) => {}
            (Some(have), None) => steps.push(Step {
                field: path(&["network_interfaces", &position]),
                from: show_adapter(have),
                to: ABSENT.to_owned(),
                impact: Impact::Restart,
                act: Act::Set {
                    stopped: removal_settings(slot, have),
                    running: Vec::new(),
                },
            }),
            (None, None) => {}
        }
    }
    // The names are the guest's business, which the seed tells it.
    let names = |adapters: &[Adapter]| -> Vec<String> {
        adapters
            .iter()
            .map(|adapter| adapter.name.clone())
            .collect()
    };
    if have.len() == want.len() && names(&have) != names(&want) {
        steps.push(Step {
            field: path(&["network_interfaces"]),
            from: names(&have).join(", "),
            to: names(&want).join(", "),
            impact: Impact::Restart,
            act: Act::WriteSeed,
        });
    }
}

/// VirtualBox would keep the forwards, which then stood in the way of new ones.
fn removal_settings(slot: u32, adapter: &Adapter) -> Vec<Setting> {
    let forwards = adapter.forwards.keys();
    forwards
        .map(|name| Setting::DeleteForward(slot, name.clone()))
        .chain([Setting::Nic(slot, Attachment::Absent)])
        .collect()
}

fn show_adapter(adapter: &Adapter) -> String {
    match &adapter.attachment {
        Some(attachment) => format!("{} {attachment}", adapter.name),
        None => adapter.name.clone(),
    }
}

fn plan_adapter(have: &Adapter, want: &Adapter, slot: u32, index: &str, steps: &mut Vec<Step>) {
    let field = |name: &str| path(&["network_interfaces", index, name]);
    let live = |field, from: String, to: String, stopped, running| Step {
        field,
        from,
        to,
        impact: Impact::Live,
        act: Act::Set { stopped, running },
    };
    if let Some(wanted) = &want.attachment
        && have.attachment.as_ref() != Some(wanted)
    {
        let from = have
            .attachment
            .as_ref()
            .map_or(ABSENT.to_owned(), ToString::to_string);
        let name = match &have.attachment {
            Some(before) if before.kind() == wanted.kind() => "adapter",
            _ => "type",
        };
        // Only an adapter that the guest has can be given another cable.
        let impact = match have.attachment {
            Some(Attachment::Absent) => Impact::Restart,
            _ => Impact::Live,
        };
        let stopped = vec![Setting::Nic(slot, wanted.clone())];
        let running = vec![Control::Nic(slot, wanted.clone())];
        steps.push(Step {
            impact,
            ..live(field(name), from, wanted.to_string(), stopped, running)
        });
    }
    if let Some(wanted) = want.promiscuous
        && have.promiscuous != Some(wanted)
    {
        steps.push(live(
            field("promiscuous"),
            have.promiscuous.map_or(ABSENT, |it| it.word()).to_owned(),
            wanted.to_string(),
            vec![Setting::Promiscuous(slot, wanted)],
            vec![Control::Promiscuous(slot, wanted)],
        ));
    }
    if let Some(wanted) = want.cable_connected
        && have.cable_connected != Some(wanted)
    {
        steps.push(live(
            field("cable_connected"),
            have.cable_connected
                .map_or(ABSENT.to_owned(), |it| it.to_string()),
            wanted.to_string(),
            vec![Setting::Cable(slot, wanted)],
            vec![Control::Cable(slot, wanted)],
        ));
    }
    if let Some(wanted) = want.mac.as_deref().and_then(plain_mac)
        && have.mac.as_deref().and_then(plain_mac).as_ref() != Some(&wanted)
    {
        let from = have.mac.clone().unwrap_or_else(|| ABSENT.to_owned());
        let step = set(
            &[],
            from,
            want.mac.as_deref().unwrap_or_default(),
            Setting::Mac(slot, wanted),
        );
        steps.push(Step {
            field: field("mac_address"),
            ..step
        });
    }
    if let Some(wanted) = want.model
        && have.model != Some(wanted)
    {
        let from = have.model.map_or(ABSENT, |it| it.word());
        steps.push(Step {
            field: field("model"),
            ..set(&[], from, wanted, Setting::NicModel(slot, wanted))
        });
    }
    // Other attachments keep their forwards asleep; they matter again with NAT.
    if want.attachment != Some(Attachment::Nat) {
        return;
    }
    for (name, before) in &have.forwards {
        if want.forwards.get(name) != Some(before) {
            let to = want
                .forwards
                .get(name)
                .map_or(ABSENT.to_owned(), ToString::to_string);
            let mut stopped = vec![Setting::DeleteForward(slot, name.clone())];
            let mut running = vec![Control::DeleteForward(slot, name.clone())];
            if let Some(after) = want.forwards.get(name) {
                stopped.push(Setting::AddForward(slot, name.clone(), after.clone()));
                running.push(Control::AddForward(slot, name.clone(), after.clone()));
            }
            steps.push(live(
                forward_field(index, name),
                before.to_string(),
                to,
                stopped,
                running,
            ));
        }
    }
    for (name, after) in &want.forwards {
        if !have.forwards.contains_key(name) {
            steps.push(live(
                forward_field(index, name),
                ABSENT.to_owned(),
                after.to_string(),
                vec![Setting::AddForward(slot, name.clone(), after.clone())],
                vec![Control::AddForward(slot, name.clone(), after.clone())],
            ));
        }
    }
}

fn forward_field(index: &str, name: &str) -> Vec<String> {
    path(&["network_interfaces", index, "port_forwards", name])
}

/// Everything about a new adapter.
pub(crate) fn adapter_settings(slot: u32, adapter: &Adapter) -> Vec<Setting> {
    let attachment = adapter.attachment.clone().unwrap_or(Attachment::Nat);
    let mut settings = vec![Setting::Nic(slot, attachment)];
    settings.extend(adapter.model.map(|it| Setting::NicModel(slot, it)));
    settings.extend(
        adapter
            .mac
            .as_deref()
            .and_then(plain_mac)
            .map(|it| Setting::Mac(slot, it)),
    );
    settings.extend(adapter.promiscuous.map(|it| Setting::Promiscuous(slot, it)));
    settings.push(Setting::Cable(
        slot,
        adapter.cable_connected.unwrap_or(true),
    ));
    for (name, forward) in &adapter.forwards {
        settings.push(Setting::AddForward(slot, name.clone(), forward.clone()));
    }
    settings
}
