//! The variables of UEFI firmware as OVMF keeps them in its flash (edk2: `VariableFormat.h`, `FirmwareVolume.h`).
//!
//! ```text
//! 0         firmware volume: zeros 16 │ file system 16 │ length 8 │ "_FVH" │ attributes 4 │ header's size 2 │ checksum 2 │ …
//! header    store: type 16 │ size 4 │ 0x5a │ 0xfe │ reserved 6
//! +28       variables, each at a multiple of 4:
//!           0x55aa │ state 1 │ 0 │ attributes 4 │ count 8 │ time 16 │ key 4 │ bytes of name 4 │ of data 4 │ vendor 16
//!           name in UTF-16 with its end │ data
//!           0xff … up to the store's size
//! behind    what the firmware's writes go through; not touched here
//! ```
//! A variable whose state is not "added" is dead; a store that is written anew leaves the dead away. Firmware must not run on a
//! file while it is read or written here.

use std::ops::Range;

use uuid::{Uuid, uuid};

const FILE_SYSTEM: Uuid = uuid!("fff12b8d-7696-4c8b-a985-2747075b4f50");
/// Variables with a time, which authenticated ones need.
const AUTHENTICATED: Uuid = uuid!("aaf32c78-947b-439a-a180-2e144ec37792");
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;
const START: [u8; 2] = [0xaa, 0x55];
const ADDED: u8 = 0x3f;
/// Non-volatile, for boot services and at run time, written by whom a key allows.
const AUTHENTICATED_WRITES: u32 = 0x27;
/// Later updates by the owners of the keys must be younger: 1 January 2010.
const TIME: [u8; 16] = [0xda, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Why a file is not, or cannot be, a store of variables.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadStore {
    #[error("no store of firmware variables: {0}")]
    Shape(&'static str),
    #[error("the firmware's store of {room} bytes has no room for variables of {needed} bytes")]
    Full { needed: usize, room: usize },
}

/// A variable that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub vendor: Uuid,
    /// UTF-16, without its end.
    name: Vec<u16>,
    pub data: Vec<u8>,
    /// Attributes, count, time, key: what is between state and sizes.
    header: [u8; 32],
}

impl Variable {
    pub fn name(&self) -> String {
        String::from_utf16_lossy(&self.name)
    }

    fn is(&self, name: &str, vendor: Uuid) -> bool {
        self.vendor == vendor && name.encode_utf16().eq(self.name.iter().copied())
    }

    fn write(&self, to: &mut Vec<u8>) {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        to.extend_from_slice(&START);
        to.extend_from_slice(&[ADDED, 0]);
        to.extend_from_slice(&self.header);
        to.extend_from_slice(&size((self.name.len() + 1) * 2));
        to.extend_from_slice(&size(self.data.len()));
        to.extend_from_slice(&self.vendor.to_bytes_le());
        self.name.iter().chain([&0]).for_each(|unit| to.extend_from_slice(&unit.to_le_bytes()));
        to.extend_from_slice(&self.data);
    }
}

/// The flash of a machine's variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableStore {
    flash: Vec<u8>,
    /// Where variables may be.
    room: Range<usize>,
    variables: Vec<Variable>,
}

impl VariableStore {
    /// # Errors
    /// It is none, or of another format.
    pub fn parse(flash: Vec<u8>) -> Result<Self, BadStore> {
        let room = room_of(&flash)?;
        let variables = variables_of(&flash[room.clone()])?;
        Ok(Self { flash, room, variables })
    }

    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.variables.iter()
    }

    /// A variable's data.
    pub fn get(&self, name: &str, vendor: Uuid) -> Option<&[u8]> {
        self.variables.iter().find(|v| v.is(name, vendor)).map(|v| v.data.as_slice())
    }

    pub fn remove(&mut self, name: &str, vendor: Uuid) {
        self.variables.retain(|v| !v.is(name, vendor));
    }

    /// Sets one of the variables that only owners of keys may change.
    pub fn set_authenticated(&mut self, name: &str, vendor: Uuid, data: Vec<u8>) {
        self.remove(name, vendor);
        let mut header = [0; 32];
        header[..4].copy_from_slice(&AUTHENTICATED_WRITES.to_le_bytes());
        header[12..28].copy_from_slice(&TIME);
        self.variables.push(Variable { vendor, name: name.encode_utf16().collect(), data, header });
    }

    /// The flash with these variables.
    ///
    /// # Errors
    /// They do not fit.
    pub fn to_flash(&self) -> Result<Vec<u8>, BadStore> {
        let mut written = Vec::new();
        for variable in &self.variables {
            // Positions count from the flash's beginning.
            while !(self.room.start + written.len()).is_multiple_of(4) {
                written.push(0xff);
            }
            variable.write(&mut written);
        }
        let room = self.room.len();
        if written.len() > room {
            return Err(BadStore::Full { needed: written.len(), room });
        }
        written.resize(room, 0xff);
        let mut flash = self.flash.clone();
        flash[self.room.clone()].copy_from_slice(&written);
        Ok(flash)
    }
}

/// Where the variables of a flash are.
fn room_of(flash: &[u8]) -> Result<Range<usize>, BadStore> {
    let bad = |why| Err(BadStore::Shape(why));
    let is_volume =
        flash.get(16..32) == Some(&FILE_SYSTEM.to_bytes_le()[..]) && flash.get(40..44) == Some(&b"_FVH"[..]);
    if !is_volume {
        return bad("it does not begin as a firmware volume");
    }
    let header = usize::from(number16(flash, 48).unwrap_or(0));
    let Some(words) = flash.get(..header).filter(|words| words.len() >= 56 && words.len().is_multiple_of(2)) else {
        return bad("the firmware volume's header is cut");
    };
    let sum = words.chunks_exact(2).fold(0u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
    if sum != 0 {
        return bad("the checksum of the firmware volume's header is wrong");
    }
    let Some(store) = flash.get(header..header + STORE_HEADER) else { return bad("it is cut") };
    if store[..16] != AUTHENTICATED.to_bytes_le() || store[20..22] != [0x5a, 0xfe] {
        return bad("its format is not that of authenticated variables");
    }
    let size = number(store, 16).unwrap_or(0);
    match header.checked_add(size) {
        Some(end) if size >= STORE_HEADER && end <= flash.len() => Ok(header + STORE_HEADER..end),
        _ => bad("it is cut"),
    }
}

fn variables_of(room: &[u8]) -> Result<Vec<Variable>, BadStore> {
    let cut = || BadStore::Shape("a variable is cut");
    let mut variables = Vec::new();
    // The room begins at a multiple of 4 in every layout of OVMF: so do positions within it.
    let mut at = 0;
    while room.get(at..at + 2) == Some(&START[..]) {
        let header = room.get(at..at + VARIABLE_HEADER).ok_or_else(cut)?;
        let sizes = [number(header, 36), number(header, 40)].map(Option::unwrap_or_default);
        let name_end = VARIABLE_HEADER.checked_add(sizes[0]).ok_or_else(cut)?;
        let end = name_end.checked_add(sizes[1]).and_then(|size| size.checked_add(at)).ok_or_else(cut)?;
        let body = room.get(at + VARIABLE_HEADER..end).ok_or_else(cut)?;
        let (name, data) = body.split_at(sizes[0]);
        if header[2] == ADDED {
            let units = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            let mut own = [0; 32];
            own.copy_from_slice(&header[4..36]);
            let vendor: [u8; 16] = header[44..].try_into().map_err(|_| cut())?;
            variables.push(Variable {
                vendor: Uuid::from_bytes_le(vendor),
                name: units.take_while(|unit| *unit != 0).collect(),
                data: data.to_vec(),
                header: own,
            });
        }
        at = end.next_multiple_of(4);
    }
    Ok(variables)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An empty store, as the first start of firmware finds it.
    fn blank(room: usize) -> Vec<u8> {
        let mut flash = vec![0; 72];
        flash[16..32].copy_from_slice(&FILE_SYSTEM.to_bytes_le());
        flash[40..44].copy_from_slice(b"_FVH");
        flash[48..50].copy_from_slice(&72u16.to_le_bytes());
        let sum = flash.chunks_exact(2).fold(0u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        flash[50..52].copy_from_slice(&0u16.wrapping_sub(sum).to_le_bytes());
        flash.extend_from_slice(&AUTHENTICATED.to_bytes_le());
        flash.extend_from_slice(&u32::try_from(STORE_HEADER + room).unwrap().to_le_bytes());
        flash.extend_from_slice(&[0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        flash.resize(72 + STORE_HEADER + room, 0xff);
        // What the firmware's writes go through.
        flash.extend_from_slice(&[0x42; 64]);
        flash
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(given in prop::collection::btree_map("[A-Za-zé]{1,12}", prop::collection::vec(any::<u8>(), 0..70), 0..9)) {
            let mut store = VariableStore::parse(blank(2048)).unwrap();
            for (name, data) in &given {
                store.set_authenticated(name, FILE_SYSTEM, vec![1]);
                store.set_authenticated(name, FILE_SYSTEM, data.clone());
            }
            let flash = store.to_flash().unwrap();
            prop_assert_eq!(&flash[flash.len() - 64..], &[0x42; 64][..]);
            let read = VariableStore::parse(flash).unwrap();
            prop_assert_eq!(read.variables().count(), given.len());
            for (name, data) in &given {
                prop_assert_eq!(read.get(name, FILE_SYSTEM), Some(data.as_slice()));
            }
        }

        #[test]
        fn damage_is_read_without_harm(at in 0usize..400, byte in any::<u8>(), cut in 0usize..2300) {
            let mut store = VariableStore::parse(blank(2048)).unwrap();
            for name in ["PK", "KEK"] {
                store.set_authenticated(name, FILE_SYSTEM, vec![9; 50]);
            }
            let mut flash = store.to_flash().unwrap();
            flash[at] = byte;
            let _ = VariableStore::parse(flash.clone());
            flash.truncate(cut);
            let _ = VariableStore::parse(flash);
        }
    }

    #[test]
    fn dead_variables_are_left_away() {
        let mut store = VariableStore::parse(blank(512)).unwrap();
        store.set_authenticated("old", FILE_SYSTEM, vec![1, 2, 3]);
        store.set_authenticated("new", FILE_SYSTEM, vec![4]);
        let mut flash = store.to_flash().unwrap();
        // Firmware marks what it deletes.
        flash[72 + STORE_HEADER + 2] = 0x3c;
        let read = VariableStore::parse(flash).unwrap();
        assert_eq!(read.variables().map(Variable::name).collect::<Vec<_>>(), ["new"]);
        assert_eq!(VariableStore::parse(read.to_flash().unwrap()).unwrap().get("new", FILE_SYSTEM), Some(&[4][..]));
    }

    #[test]
    fn another_format_is_told() {
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut flash = blank(64);
            change(&mut flash);
            VariableStore::parse(flash).unwrap_err().to_string()
        };
        insta::assert_snapshot!(refused(|f| f.clear()), @"no store of firmware variables: it does not begin as a firmware volume");
        insta::assert_snapshot!(refused(|f| f[60] ^= 1), @"no store of firmware variables: the checksum of the firmware volume's header is wrong");
        insta::assert_snapshot!(refused(|f| f[72] ^= 1), @"no store of firmware variables: its format is not that of authenticated variables");
        insta::assert_snapshot!(refused(|f| f.truncate(120)), @"no store of firmware variables: it is cut");
    }
}
