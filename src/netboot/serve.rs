//! Owns `hearth serve` as a library: opens all sockets or says which it cannot have, and runs the servers together.
//! Never prints.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use listenfd::ListenFd;
use nix::ifaddrs::getifaddrs;
use tokio::task::JoinSet;

use super::access::Access;
use super::exports::Exports;
use super::mount::Mount;
use super::nfs;
use super::portmap::Portmap;
use super::rpc::Program;
use super::rpc_net::Service;
use super::sockets::{Pair, Sockets};
use super::store::Store;
use super::tftp::Tftp;
use super::view::View;
use super::{dhcp, http, limits};
use crate::error::Fault;
use crate::recipe::{LabSettings, LoadedLab, Network};

/// How often uses are noted, and what nobody uses any more is let go.
const TIDY: Duration = Duration::from_secs(60);

/// Everything that is open, but not served yet.
pub struct Server {
    lab: LoadedLab,
    store: Arc<Store>,
    access: Arc<Access>,
    exports: Arc<Exports>,
    view: Arc<View>,
    sockets: Sockets,
    /// Routes beside the files.
    api: Router,
}

impl Server {
    /// Opens the images below `builds` and all sockets that the lab asks for. Sockets that systemd has
    /// opened (`LISTEN_FDS`) are used where their ports fit. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// Names every port that cannot be had, and the remedy for each; that there is nothing to serve.
    pub fn open(lab: LoadedLab, builds: &Path, mut inherited: ListenFd) -> Result<Server> {
        limits::raise();
        let sockets = Sockets::open(&lab.settings, &mut inherited)?;
        let exports = Arc::new(Exports::default());
        let store = Arc::new(Store::open(builds, exports.clone())?);
        let view = Arc::new(View::new(lab.clone(), store.clone()));
        let boards = view.clone();
        let access = Access::new(allowed(&lab.settings)?);
        let access = Arc::new(access.with_boards(move |host| boards.is_board(host)));
        Ok(Server {
            lab,
            store,
            access,
            exports,
            view,
            sockets,
            api: Router::new(),
        })
    }

    /// Adds HTTP routes, such as `/api/v1`; the allowed networks hold for them too.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Server {
        self.api = self.api.merge(routes);
        self
    }

    /// What is served where, a line each, for the user.
    pub fn status(&self) -> Vec<String> {
        let settings = &self.lab.settings;
        let ports = settings.ports;
        let mut lines = vec![format!(
            "lab {} at {}: TFTP {}, NFS {}, MOUNT {}, portmapper {}, HTTP {}",
            settings.name,
            settings.address,
            ports.tftp,
            ports.nfs,
            ports.mount,
            match ports.portmap {
                0 => "off".to_string(),
                port => port.to_string(),
            },
            ports.http
        )];
        lines.extend(limits::warning());
        if settings.nfs_udp {
            lines.push(
                "NFS over UDP is on (nfs-udp): its answers go wherever a forged request says"
                    .into(),
            );
        }
        if let Some(dhcp) = &settings.dhcp {
            lines.push(format!("DHCP for the lab's boards on {}", dhcp.interface));
        }
        let networks: Vec<String> = self
            .access
            .networks()
            .iter()
            .map(Network::to_string)
            .collect();
        lines.push(format!("for {}", networks.join(", ")));
        let images = self.store.listing();
        for board in &self.lab.boards {
            let image = board
                .recipe
                .as_deref()
                .and_then(|recipe| self.store.current(recipe).ok());
            lines.push(match image {
                Some(export) => format!("{} ({}) boots {}", board.name, board.mac, export.id),
                None => format!(
                    "{} ({}) has no image yet: recipe {}",
                    board.name,
                    board.mac,
                    board.recipe.as_deref().unwrap_or("none")
                ),
            });
        }
        if images.is_empty() {
            lines.push("no image yet: the first one that is built will be served".into());
        }
        for (id, _) in images {
            lines.push(format!("image /{id}"));
        }
        lines
    }

    /// The images, for callers that change them.
    pub fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// Serves until `stop` is ready.
    ///
    /// # Errors
    /// If one of the servers ends by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Server {
            lab,
            store,
            access,
            exports,
            view,
            sockets,
            api,
        } = self;
        let mut tasks = JoinSet::new();
        let rpc = Rpc {
            exports,
            store: store.clone(),
            access: access.clone(),
        };
        let portmap = sockets.portmap;
        for (service, (tcp, udp)) in
            rpc.services(&lab.settings, sockets.nfs, sockets.mount, portmap)
        {
            tasks.spawn(service.clone().serve_tcp(tcp));
            if let Some(udp) = udp {
                tasks.spawn(service.serve_udp(udp));
            }
        }
        let tftp = Tftp {
            files: view.clone(),
            access: access.clone(),
        };
        tasks.spawn(tftp.serve(sockets.tftp));
        if let Some(socket) = sockets.dhcp {
            let view = view.clone();
            tasks.spawn(dhcp::serve(socket, move || view.lab()));
        }
        let routes = http::restrict(api.merge(http::files(view)), access.clone());
        tasks.spawn(http::serve(sockets.http, access, routes));
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(TIDY).await;
                store.refresh();
                store.tidy();
            }
        });
        tokio::select! {
            () = stop => Ok(()),
            ended = tasks.join_next() => {
                ended.transpose().context("a server failed")?;
                Err(Fault::infrastructure("a server ended by itself").into())
            }
        }
    }
}

/// What the RPC programs share.
struct Rpc {
    exports: Arc<Exports>,
    store: Arc<Store>,
    access: Arc<Access>,
}

impl Rpc {
    /// NFS, MOUNT and the portmapper with their sockets; MOUNT goes with NFS where it has none of its own.
    fn services(
        &self,
        lab: &LabSettings,
        nfs_pair: Pair,
        mount: Option<Pair>,
        portmap: Option<Pair>,
    ) -> Vec<(Service, Pair)> {
        let service = |name, programs: Vec<Arc<dyn Program>>| Service {
            name,
            programs: programs.into(),
            access: self.access.clone(),
        };
        let store = self.store.clone();
        let mut with_nfs = nfs::programs(&self.exports);
        let mount_program = Arc::new(Mount {
            exports: self.exports.clone(),
            access: self.access.clone(),
            find: Box::new(move |id| {
                store.by_id(id);
            }),
        });
        let mut services = Vec::new();
        match mount {
            Some(pair) => services.push((service("mount", vec![mount_program]), pair)),
            None => with_nfs.push(mount_program),
        }
        services.push((service("nfs", with_nfs), nfs_pair));
        if let Some(pair) = portmap {
            let ports = lab.ports;
            let program = Portmap::over(ports.nfs, ports.mount, ports.portmap, lab.nfs_udp);
            services.push((service("portmap", vec![Arc::new(program)]), pair));
        }
        services
    }
}

/// The networks that may use the servers: those of the lab file, else loopback, the boards' own network and the
/// host itself.
fn allowed(lab: &LabSettings) -> Result<Vec<Network>> {
    if !lab.allow.is_empty() {
        let parse = |text: &String| text.parse().map_err(anyhow::Error::msg);
        return lab.allow.iter().map(parse).collect();
    }
    let mut networks = vec![
        Network::of(Ipv4Addr::LOCALHOST, 8),
        Network::of(lab.address, 32),
    ];
    match &lab.dhcp {
        Some(dhcp) => networks.push(dhcp.network.parse().map_err(anyhow::Error::msg)?),
        None => networks.extend(network_of(lab.address)),
    }
    let mut distinct = Vec::new();
    for network in networks {
        if !distinct.contains(&network) {
            distinct.push(network);
        }
    }
    Ok(distinct)
}

/// The network of the interface that has the address.
fn network_of(address: Ipv4Addr) -> Option<Network> {
    let mut interfaces = getifaddrs().ok()?;
    interfaces.find_map(|interface| {
        let ip = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask?.as_sockaddr_in()?.ip();
        let prefix = mask.to_bits().leading_ones() as u8;
        (ip == address).then(|| Network::of(address, prefix))
    })
}
