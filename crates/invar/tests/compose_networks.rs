//! The networks of a compose file: names between containers of one project, kept apart from others.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use fs_err as fs;
use invar_testkit::{checked, eventually, rootfs};
use support::shop::Rig;

/// A rig with busybox, and a way to deploy a whole file.
struct Shop(Rig);

impl Shop {
    fn new() -> Self {
        let shop = Self(Rig::bare());
        shop.0.invar.import("busybox", &rootfs::busybox_tar());
        shop
    }

    fn deploy(&self, text: &str) -> (Option<i32>, String, String) {
        let path = self.0.invar.root().join("compose.yaml");
        fs::write(&path, text).unwrap();
        let args = ["deploy", "-f", path.to_str().unwrap()];
        support::outcome_of(&self.0.command(&args).output().unwrap())
    }

    fn must_deploy(&self, text: &str) {
        let (code, out, err) = self.deploy(text);
        assert_eq!(code, Some(0), "{out}\n{err}");
    }

    fn networks(&self) -> Vec<String> {
        let listed = self.0.invar.run(&["network", "ls", "--format", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let all = listed.as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The running container of a service.
    fn container(&self, service: &str) -> String {
        let listed = self.0.invar.run(&["ps", "--format", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let mut names = listed.as_array().unwrap().iter();
        let name = names.find_map(|one| {
            let name = one["name"].as_str().unwrap();
            name.starts_with(&format!("shop-{service}-"))
                .then(|| name.to_owned())
        });
        name.unwrap()
    }

    /// Whether one service finds another by this name.
    fn finds(&self, from: &str, name: &str) -> bool {
        let from = self.container(from);
        let asked = ["exec", &from, "nslookup", "-type=a", name];
        self.0.invar.output(&asked).status.success()
    }

    fn undeploy(&self, service: &str) {
        checked(&mut self.0.command(&["undeploy", service]));
    }
}

const SLEEPS: &str = "    image: busybox\n    command: [sleep, '1000']\n    init: true\n    \
                      x-invar: { rollout: { hold: 0s } }\n";

#[test]
fn services_of_a_project_find_each_other_and_networks_keep_them_apart() {
    let shop = Shop::new();
    shop.must_deploy(&format!(
        "name: shop\nservices:\n  web:\n{SLEEPS}  api:\n{SLEEPS}  db:\n{SLEEPS}    networks: {{ back: {{ aliases: [store] }} }}\n  \
         worker:\n{SLEEPS}    networks: [back]\nnetworks:\n  back: {{ internal: true }}\n"
    ));
    let mut networks = shop.networks();
    networks.sort();
    assert_eq!(networks, ["shop_back", "shop_default"]);
    for (from, name) in [
        ("web", "api"),
        ("api", "web"),
        ("worker", "db"),
        ("worker", "store"),
    ] {
        eventually(&format!("{from} finds {name}"), || {
            shop.finds(from, name).then_some(())
        });
    }
    for (from, name) in [("web", "db"), ("web", "store"), ("worker", "web")] {
        assert!(!shop.finds(from, name), "{from} must not find {name}");
    }
    for service in ["web", "api", "db"] {
        shop.undeploy(service);
        assert_eq!(shop.networks().len(), 2, "a service is still there");
    }
    shop.undeploy("worker");
    assert_eq!(shop.networks(), Vec::<String>::new());
}

#[test]
fn a_network_of_somebody_else_is_used_only_when_the_file_says_so() {
    let shop = Shop::new();
    let file = |network: &str| {
        format!(
            "name: shop\nservices:\n  web:\n{SLEEPS}    networks: [front]\nnetworks:\n  front: {{ name: front, {network} }}\n"
        )
    };
    let (code, out, err) = shop.deploy(&file("external: true"));
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(err.contains("invar network create front"), "{err}");
    shop.0.invar.run(&["network", "create", "front"]);
    let (code, out, err) = shop.deploy(&file("external: false"));
    assert_eq!(code, Some(1), "{out}\n{err}");
    assert!(err.contains("external: true"), "{err}");
    shop.must_deploy(&file("external: true"));
    shop.undeploy("web");
    assert_eq!(
        shop.networks(),
        ["front"],
        "it is not the project's to remove"
    );
}
