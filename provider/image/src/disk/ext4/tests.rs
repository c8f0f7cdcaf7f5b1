//! File systems of ours before the judge: e2fsprogs, on every machine with Debian or Ubuntu.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use super::*;

const VOLUME: Volume<'static> = Volume {
    id: *b"0123456789abcdef",
    hash_seed: *b"fedcba9876543210",
    label: "ondol-root",
    epoch: 1_700_000_000,
    free: 64 << 20,
};

/// Something of every kind, a directory of several blocks, a file that crosses groups, one in many pieces.
fn tree() -> (Tree, File) {
    let mut archive = tempfile::tempfile().expect("a temporary file");
    let mut builder = tar::Builder::new(&mut archive);
    let mut append = |path: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(70_000);
        header.set_gid(8);
        header.set_mtime(1_600_000_000);
        if !link.is_empty() {
            header.set_link_name(link).expect("short enough");
        }
        header.set_device_major(5).expect("ustar");
        header.set_device_minor(1).expect("ustar");
        builder
            .append_data(&mut header, path, data)
            .expect("writable");
    };
    append("./", tar::EntryType::Directory, "", b"");
    append("./text", tar::EntryType::Regular, "", b"hello\n");
    append("./again", tar::EntryType::Link, "./text", b"");
    append("./console", tar::EntryType::Char, "", b"");
    append("./pipe", tar::EntryType::Fifo, "", b"");
    append(
        "./x",
        tar::EntryType::XHeader,
        "",
        b"57 SCHILY.xattr.security.capability=\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n",
    );
    append("./ping", tar::EntryType::Regular, "", &[7; 10_000]);
    drop(builder);

    let mut tree = Tree::read(&archive).expect("readable");
    archive.flush().expect("writable");
    tree.link("fast", "text");
    tree.link("slow", &"../".repeat(40));
    tree.put("empty", 0o644, "");
    for index in 0..400 {
        tree.put(
            &format!("many/a-name-of-some-length-{index}"),
            0o644,
            format!("{index}"),
        );
    }
    // Larger than three groups, so that the extents need a block of their own.
    tree.put("large", 0o644, vec![0x55; 600 << 20]);
    (tree, archive)
}

fn image(tree: &Tree, archive: &File) -> tempfile::NamedTempFile {
    let sparse = write(&VOLUME, tree).expect("the tree can be written");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let reader = sparse.reader(archive);
    file.as_file().set_len(reader.size()).expect("sparse");
    let mut buffer = vec![0; 1 << 20];
    for granule in reader.occupied(1 << 20) {
        use std::io::Seek;
        reader.read(granule << 20, &mut buffer).expect("readable");
        file.seek(std::io::SeekFrom::Start(granule << 20))
            .expect("seekable");
        file.write_all(&buffer).expect("writable");
    }
    file
}

fn run(program: &str, args: &[&str], image: &tempfile::NamedTempFile) -> String {
    let output = Command::new(program)
        .args(args)
        .arg(image.path())
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("DEBUGFS_PAGER", "cat")
        .output()
        .expect("e2fsprogs is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}");
    text
}

#[test]
fn fsck_finds_nothing_to_say_and_the_files_are_what_they_were() {
    let (tree, archive) = tree();
    let image = image(&tree, &archive);
    let checked = run("e2fsck", &["-f", "-n"], &image);
    assert!(
        !checked.contains("ix?") && !checked.contains("WARNING"),
        "{checked}"
    );

    let debugfs = |request: &str| run("debugfs", &["-R", request], &image);
    assert!(debugfs("cat /text").contains("hello\n"));
    let ping = debugfs("stat /ping");
    assert!(
        ping.contains("User: 70000") && ping.contains("Size: 10000"),
        "{ping}"
    );
    assert!(ping.contains("security.capability (20)"), "{ping}");
    assert!(debugfs("stat /again").contains("Links: 2"));
    assert!(debugfs("stat /slow").contains("Size: 120"));
    assert!(debugfs("stat /many/a-name-of-some-length-399").contains("Size: 3"));
    assert!(debugfs("stat /text").contains("mtime: 0x5f5e1000"));
}

#[test]
fn the_file_system_grows() {
    let (mut tree, archive) = tree();
    tree.remove("large");
    let image = image(&tree, &archive);
    image.as_file().set_len(3 << 30).expect("sparse");
    run("e2fsck", &["-f", "-n"], &image);
    run("resize2fs", &[], &image);
    let checked = run("e2fsck", &["-f", "-n"], &image);
    assert!(!checked.contains("ix?"), "{checked}");
    assert!(run("dumpe2fs", &["-h"], &image).contains("Block count:              786432"));
}

#[test]
fn attributes_without_room_are_an_error_that_names_the_file() {
    let (mut tree, _) = tree();
    tree.remove("large");
    let id = tree.find("ping").expect("there");
    tree.set_attribute(id, "user.long", vec![0; 100]);
    assert_eq!(
        write(&VOLUME, &tree).err(),
        Some(Error::Attributes {
            path: "/ping".into()
        })
    );
}
