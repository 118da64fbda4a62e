//! Where the nodes of a database are: an address and an empty directory for each.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lab::{
    NodeName,
    address::{Address, FIRST_PORT},
    keeper::Account,
    network::{Dialer, Host, Network},
    scratch::Scratch,
};

/// The number of ports of a node.
const PORTS: u16 = 2;

/// Where a node is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: NodeName,
    pub(crate) ip: String,
    /// The port for clients.
    pub(crate) port: u16,
    /// The port for other nodes, where that is another one.
    pub(crate) peer_port: u16,
    pub(crate) directory: PathBuf,
    /// The reservation of a loopback address.
    _address: Option<Address>,
}

impl Place {
    /// The address for clients: `IP:PORT`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }
}

/// The places of all nodes. The directories are removed with it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) names: Vec<NodeName>,
    pub(crate) places: Vec<Place>,
    pub(crate) keeper: PathBuf,
    /// The virtual network of the nodes and their clients. `None`: they have addresses of this machine.
    pub(crate) network: Option<Arc<Network>>,
    scratch: Scratch,
}

impl Site {
    pub(crate) fn new(
        names: &[&str],
        keeper: &Path,
        network: Option<Arc<Network>>,
    ) -> io::Result<Site> {
        let scratch = Scratch::create(&env::temp_dir())?;
        let place = |name: &&str| {
            let (name, directory) = (NodeName::new(name), scratch.path().join(name));
            let (ip, address) = match &network {
                Some(network) => (network.address(&Host::Node(name.clone())).to_string(), None),
                None => {
                    let address = Address::claim(PORTS)?;
                    (address.socket(0).ip().to_string(), Some(address))
                }
            };
            fs::create_dir(&directory)?;
            Ok(Place {
                name,
                ip,
                port: FIRST_PORT,
                peer_port: FIRST_PORT + 1,
                directory,
                _address: address,
            })
        };
        let places = names.iter().map(place).collect::<io::Result<Vec<Place>>>()?;
        let names = places.iter().map(|place| place.name.clone()).collect();
        Ok(Site { names, places, keeper: keeper.to_owned(), network, scratch })
    }

    /// How the nodes are watched.
    pub(crate) fn dialer(&self) -> Dialer {
        Dialer::of_control(self.network.as_ref())
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The place of a node of this system.
    pub(crate) fn of(&self, node: &NodeName) -> &Place {
        let found = self.places.iter().find(|place| place.name == *node);
        found.expect("the nodes do not change")
    }

    /// Gives the directories to an account.
    pub(crate) fn give_to(&self, account: Account) -> io::Result<()> {
        account.reach(self.scratch())?;
        self.places.iter().try_for_each(|place| account.own_tree(&place.directory))
    }
}
