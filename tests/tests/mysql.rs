//! Stage 7's MySQL as a newcomer gets it: foretold, made from bare machines of the other suite's image, idle when repeated, and failed over
//! under a writer; then to a stand-in of Amazon RDS and back. What its modules do in single cases is tested beside them.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondol_tests::Site;
use ondol_tests::plan::recap;
use serde_json::Value;

const ADMIN: &str = "multi-cloud-admin";
const SOURCE: &str = "mysql-db-01";
const REPLICA: &str = "mysql-db-02";
const STAGE: &str = "ansible-playbook playbooks/07-databases.yml";
/// How Terraform names what comes from the other suite. Its failure is not MySQL's.
const OTHER_SUITE: &str = "ondol_apt_mirror.suite[\"sid\"]";

#[test]
fn mysql_is_foretold_made_kept_and_failed_over_without_losing_a_row() -> Result<()> {
    let site = Site::new("mysql")?;
    site.keep_machines(&[ADMIN, SOURCE, REPLICA])?;
    if let Err(error) = site.make(&["lab", "STAGES=3 4"]) {
        let words = format!("{error:#}");
        ensure!(
            words.contains(OTHER_SUITE) && std::env::var_os("CI").is_none(),
            "{words}"
        );
        eprintln!(
            "SKIPPED: MySQL's stage needs Debian unstable from this machine's archive:\n{words}"
        );
        return Ok(());
    }

    step("check mode foretells the stage and changes nothing");
    let foretold = site.must(&format!("{STAGE} --check --diff"))?;
    for vm in [SOURCE, REPLICA] {
        site.shell(
            vm,
            "! test -e /usr/sbin/mysqld && ! test -e /etc/mysql && ! test -e /var/lib/mysql",
        )?;
    }
    let secrets = site.directory().join("secrets");
    ensure!(
        !secrets.join("site_authority.key").exists(),
        "check mode made the authority"
    );

    step("the stage does what was foretold");
    let made = site.make(&["lab", "STAGES=7"])?;
    let of_the_stage = |output: &str| -> Result<BTreeSet<(String, String)>> {
        let (_, stage) = output
            .split_once("PLAY [Stage 7:")
            .context("the output has stage 7")?;
        Ok(changes(stage))
    };
    let (foretold, done) = (of_the_stage(&foretold)?, of_the_stage(&made)?);
    assert_eq!(foretold, done);
    ensure!(
        done.contains(&("The source".to_owned(), SOURCE.to_owned())),
        "{done:?}"
    );
    let report = site.report().join("report.json");
    let twin = || -> Result<Value> {
        let text = std::fs::read_to_string(&report).context("read the report's JSON twin")?;
        serde_json::from_str(&text).context("parse the report's JSON twin")
    };
    ensure!(
        twin()?["verdict"]["ok"] == Value::Bool(true),
        "the report is not green"
    );
    let shown = site.shell(REPLICA, "mysql -BNe 'SELECT @@super_read_only'")?;
    assert_eq!(shown.trim(), "1");
    for secret in ["mysql_app", "mysql_replication"] {
        let password = std::fs::read_to_string(secrets.join(secret)).context("read a password")?;
        ensure!(!made.contains(password.trim()), "{secret} was printed");
    }

    step("the stage repeated changes nothing");
    let again = site.must(STAGE)?;
    for (host, counts) in recap(&again) {
        assert_eq!(
            counts,
            [0, 0, 0],
            "changed, unreachable and failed tasks of {host}"
        );
    }

    step("the drill: the source loses its power under a writer");
    let drill = site.must("ansible-playbook playbooks/drills/mysql-failover.yml")?;
    let page = twin()?.to_string();
    for held in [
        "every acknowledged row is there",
        "never two nodes took writes at once",
        "a transaction that the old source alone had was named",
    ] {
        ensure!(page.contains(held), "the report lacks {held:?}:\n{drill}");
    }
    let role = site.shell(SOURCE, "mysql -BNe 'SELECT @@super_read_only'")?;
    assert_eq!(
        role.trim(),
        "1",
        "the old source takes no writes after the drill"
    );

    step("the stage keeps what the drill made");
    let kept = site.must(STAGE)?;
    for (host, counts) in recap(&kept) {
        assert_eq!(
            counts,
            [0, 0, 0],
            "changed, unreachable and failed tasks of {host} after the drill"
        );
    }
    to_rds_and_back(&site)
}

/// A second server in a network of its own, "the cloud", behind the old source, which is a replica since the drill. It has RDS's procedures and RDS's
/// parameters, and Amazon's API is a stand-in: what this shows is that the playbooks keep the contract, not that Amazon does.
const CLOUD: &str = r#"
set -e
ip netns add cloud
ip link add cloud0 type veth peer name eth0 netns cloud
ip address add 10.20.0.1/24 dev cloud0
ip link set cloud0 up
ip -n cloud address add 10.20.0.2/24 dev eth0
ip -n cloud link set eth0 up
ip -n cloud link set lo up
ip -n cloud route add default via 10.20.0.1
sysctl -qw net.ipv4.ip_forward=1
install -d -o mysql -g mysql -m 0750 /var/lib/rds /var/lib/rds/tls
chown mysql: /tmp/rds-*.pem
mv /tmp/rds-*.pem /var/lib/rds/tls
mysqld --no-defaults --user=mysql --datadir=/var/lib/rds/data --initialize-insecure
systemd-run --quiet --unit=rds --property=NetworkNamespacePath=/run/netns/cloud --property=User=mysql \
  mysqld --no-defaults --datadir=/var/lib/rds/data --socket=/var/lib/rds/socket --mysqlx=OFF --server-id=99 \
  --gtid-mode=ON --enforce-gtid-consistency=ON --replicate-wild-ignore-table=mysql.% --require-secure-transport=ON \
  --innodb-buffer-pool-size=64M --ssl-ca=/var/lib/rds/tls/rds-ca.pem --ssl-cert=/var/lib/rds/tls/rds-cert.pem --ssl-key=/var/lib/rds/tls/rds-key.pem
mysqladmin --no-defaults --user=root --socket=/var/lib/rds/socket --wait=60 --silent ping
"#;
const ROOT_OF_RDS: &str = "mysql --no-defaults --user=root --socket=/var/lib/rds/socket -BN";
const RDS: &str = include_str!("../../modules/mysql/tests/support/rds.sql");
const MASTER: &str = "master-of-the-cloud";

fn to_rds_and_back(site: &Site) -> Result<()> {
    step("a stand-in of RDS, and one of Amazon's API");
    let secrets = site.directory().join("secrets");
    let authority = secrets.join("site_authority.pem");
    std::fs::copy(&authority, secrets.join("rds-authority.pem")).context("name RDS's authority")?;
    std::fs::write(secrets.join("rds_master"), MASTER).context("choose the master password")?;
    let made = site.must(&format!(
        r#"cd "$(mktemp -d)"; s={}; openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=rds -keyout key.pem -out rds.csr 2>/dev/null
           openssl x509 -req -in rds.csr -days 30 -CA "$s.pem" -CAkey "$s.key" -extfile <(echo subjectAltName=IP:10.20.0.2) -out cert.pem 2>/dev/null
           cp "$s.pem" ca.pem; chmod a+r *.pem
           for p in key cert ca; do echo "cat >/tmp/rds-$p.pem <<'END'"; cat $p.pem; echo END; done; rm -r "$PWD""#,
        secrets.join("site_authority").display()
    ))?;
    site.shell(SOURCE, &format!("{made}{CLOUD}"))?;
    site.shell(SOURCE, &format!("{ROOT_OF_RDS} <<'END'\n{RDS}\nSET sql_log_bin = OFF; ALTER USER admin IDENTIFIED BY '{MASTER}';\nEND"))?;
    site.shell(
        REPLICA,
        &format!("ip route add 10.20.0.0/24 via \"$(getent ahostsv4 {SOURCE} | awk '{{ print $1; exit }}')\""),
    )?;
    let amazon = Amazon::start()?;
    let line = |playbook: &str| {
        format!(
            "export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=never-printed AWS_ENDPOINT_URL_RDS=http://127.0.0.1:{}; \
             ansible-playbook playbooks/{playbook} -e rds_address=10.20.0.2",
            amazon.port
        )
    };
    let run = |playbook: &str| site.must(&line(playbook));
    let here = |sql: &str| site.shell(REPLICA, &format!("mysql -BNe \"{sql}\" app"));
    let there = |sql: &str| site.shell(SOURCE, &format!("{ROOT_OF_RDS} -e \"{sql}\" app"));
    let rows = "SELECT COUNT(*), SUM(CRC32(word)) FROM orders";
    let insert = |from: u32, to: u32| {
        format!(
            "INSERT INTO orders WITH RECURSIVE n AS (SELECT {from} AS n UNION ALL SELECT n + 1 FROM n WHERE n < {to}) SELECT n, SHA2(n, 256) FROM n"
        )
    };

    step("RDS is made, loaded, and follows");
    here("CREATE TABLE orders (n INT PRIMARY KEY, word TEXT)")?;
    here(&insert(1, 500))?;
    let first = run("mysql-to-rds.yml")?;
    here(&insert(501, 1000))?;
    let executed = here("SELECT @@gtid_executed")?.replace("\\n", "");
    let late = there(&format!(
        "SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 120)",
        executed.trim()
    ))?;
    assert_eq!(late.trim(), "0", "RDS follows");
    assert_eq!(there(rows)?, here(rows)?);
    ensure!(there(rows)?.starts_with("1000\t"), "{}", there(rows)?);
    let page = std::fs::read_to_string(site.report().join("report.json"))
        .context("read the report's JSON twin")?;
    ensure!(
        page.contains("MySQL: RDS follows the source"),
        "the report lacks RDS"
    );

    step("RDS stops, and goes on where it stopped");
    let only = BTreeSet::from([("RDS follows, or does not".to_owned(), REPLICA.to_owned())]);
    let stopped = run("mysql-to-rds.yml -e rds_state=stopped")?;
    assert_eq!(changes(&stopped), only);
    here("UPDATE orders SET word = 'late' WHERE n = 1")?;
    let late = "SELECT COUNT(*) FROM orders WHERE word = 'late'";
    assert_eq!(there(late)?.trim(), "0", "RDS stands still");
    // Whatever else was done is as it should be.
    let on = run("mysql-to-rds.yml")?;
    assert_eq!(changes(&on), only);
    for secret in [MASTER, "never-printed"] {
        ensure!(
            ![&first, &stopped, &on].iter().any(|it| it.contains(secret)),
            "{secret} was printed"
        );
    }

    step("RDS takes over, and the site follows it");
    run("mysql-from-rds.yml")?;
    assert_eq!(there(late)?.trim(), "1", "RDS has what it missed");
    let lost = site.run(&line("mysql-to-rds.yml -e rds_state=stopped"))?;
    // It is printed in lines of a certain length.
    let words = String::from_utf8_lossy(&lost.stdout);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        !lost.status.success()
            && words.contains("there is none: ")
            && words.contains("mysql-from-rds.yml -e rds_return=true"),
        "without a member that takes writes: {words}"
    );
    assert_eq!(there("SHOW REPLICA STATUS")?, "", "RDS follows nobody");
    there(&insert(1001, 1100))?;
    there(
        "CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY); INSERT INTO mysql.rds_heartbeat2 VALUES (1)",
    )?;

    step("the writes come home");
    run("mysql-from-rds.yml -e rds_return=true")?;
    here(&insert(1101, 1101))?;
    ensure!(here(rows)?.starts_with("1101\t"), "{}", here(rows)?);
    assert_eq!(
        here("SHOW TABLES FROM mysql LIKE 'rds%'")?,
        "",
        "RDS's housekeeping stays there"
    );
    let kept = site.must(STAGE)?;
    for (host, counts) in recap(&kept) {
        assert_eq!(
            counts,
            [0, 0, 0],
            "changed, unreachable and failed tasks of {host} after the way back"
        );
    }
    Ok(())
}

/// A stand-in of Amazon's API, from PyPI, in an environment of its own beside the build.
struct Amazon {
    server: std::process::Child,
    port: u16,
}

impl Amazon {
    fn start() -> Result<Self> {
        let root = ondol_tests::site::repository();
        let home = root.join("target/moto");
        let list = root.join("tests/moto.txt");
        let text = std::fs::read_to_string(&list).context("read what the stand-in is made of")?;
        let stamp = home.join("made");
        if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&text) {
            let script = r#"rm -rf "$1"; python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2" && cp "$2" "$1/made""#;
            let made = Command::new("sh")
                .args(["-ec", script, "sh"])
                .args([&home, &list])
                .output()
                .context("make an environment for the stand-in of Amazon's API")?;
            ensure!(
                made.status.success(),
                "make an environment for the stand-in of Amazon's API: {}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        // Free a moment ago; whoever takes it meanwhile makes the start fail, and says so.
        let port = TcpListener::bind("127.0.0.1:0")
            .context("find a port")?
            .local_addr()
            .context("find a port")?
            .port();
        let server = Command::new(home.join("bin/moto_server"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the stand-in of Amazon's API")?;
        let mut amazon = Self { server, port };
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                amazon.server.try_wait()?.is_none() && Instant::now() < deadline,
                "the stand-in of Amazon's API does not start"
            );
            sleep(Duration::from_millis(100));
        }
        Ok(amazon)
    }
}

impl Drop for Amazon {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn step(name: &str) {
    eprintln!("--- {name}");
}

/// Which task changed, or would change, which host, as Ansible prints it.
fn changes(output: &str) -> BTreeSet<(String, String)> {
    let mut task = "";
    let mut changes = BTreeSet::new();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("TASK [") {
            task = rest.split_once(']').map_or(rest, |(name, _)| name);
        } else if let Some(rest) = line.strip_prefix("changed: [") {
            let host = rest.split_once(']').map_or(rest, |(host, _)| host);
            // A task that is delegated is printed as `changed: [host -> other]`.
            let host = host.split(" -> ").next().unwrap_or(host);
            changes.insert((task.to_owned(), host.to_owned()));
        }
    }
    changes
}

#[test]
fn changed_tasks_are_read_from_what_ansible_prints() {
    let output = "TASK [One] ****\nok: [a]\nchanged: [b]\n\nTASK [Two] ***\nchanged: [a -> localhost]\nskipping: [b]\n";
    let pair = |task: &str, host: &str| (task.to_owned(), host.to_owned());
    assert_eq!(
        changes(output),
        BTreeSet::from([pair("One", "b"), pair("Two", "a")])
    );
}
