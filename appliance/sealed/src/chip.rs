//! The TPM of the machine, as the opener uses it: its word on what was started, and a secret that it gives to such a start only.
//!
//! Nothing stays in the TPM: its keys are made from its seeds each time, and are the same each time, and what it has sealed lies in the token. What
//! goes between here and there is encrypted with a key that only the TPM can have made, so that who listens on its wires hears nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use postkeep_firmware::attestation::{AttestationKey, KeyError, OPENED, REGISTERS, SECURE_BOOT, SYSTEM};
use postkeep_firmware::digest::Digest as Value;
use postkeep_firmware::signed_policy::{self, PolicyError, policy_of_11, policy_of_signer_and_7};
use postkeep_keys::tpm::{Quoted, Register, Sealed, Tpm};
use postkeep_keys::{Octets, Secret, Sum};
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, PcrHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Data, Digest, DigestValues, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, KeyedHashScheme, Name,
    Nonce, PcrSelectionList, PcrSlot, Private, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa,
    PublicKeyedHashParameters, PublicRsaParametersBuilder, RsaExponent, RsaScheme, RsaSignature, SensitiveData,
    Signature, SignatureScheme, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

/// More than a log has; one that is longer is not handed over, and then nobody believes it.
const LONGEST_LOG: u64 = 256 << 10;
/// Of the signed values of PCR 11, and of the key that signed them.
const LARGEST_FILE: u64 = 256 << 10;
/// The registers may change while they are read: the start goes on.
const TRIES: u32 = 5;

/// The TPM of a machine.
#[derive(Debug, Clone)]
pub struct Chip {
    /// How it is reached, as tpm2-tss names it: `device:/dev/tpmrm0`.
    pub tpm: String,
    /// The log of the boot.
    pub log: PathBuf,
    /// The values of PCR 11 that its builder has signed, as systemd-stub hands them over.
    pub signed: PathBuf,
    /// The key that they are signed with.
    pub signer: PathBuf,
}

/// Why the TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChipError {
    /// See the text.
    #[error("the TPM: {0}")]
    Tpm(#[from] tss_esapi::Error),
    /// See the text.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// See the text.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// See the text.
    #[error(
        "the TPM gives its part of the key to a start as its builder has signed it, and only until the system's services have begun: \
         start the machine anew (PCR 11 is {0})"
    )]
    NotSigned(Value),
    /// See the text.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See the text.
    #[error("the TPM does what it should not: {0}")]
    Strange(&'static str),
}

/// Whether a machine has one, and how it is reached: `/dev/tpmrm0`.
#[must_use]
pub fn of_this_machine() -> Option<Chip> {
    const DEVICE: &str = "/dev/tpmrm0";
    Path::new(DEVICE).exists().then(|| Chip {
        tpm: format!("device:{DEVICE}"),
        log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
        signed: "/run/systemd/tpm2-pcr-signature.json".into(),
        signer: "/run/systemd/tpm2-pcr-public-key.pem".into(),
    })
}

impl Chip {
    /// What a token says of it, with a secret that it keeps, where one is given to it: for starts under the same Secure Boot as now, until the
    /// system's services begin. That it gives the secret back is tried, where it still does.
    ///
    /// # Errors
    /// It does not answer, or does not give the secret back.
    pub fn enrol(&self, secret: Option<&Secret>) -> Result<Tpm, ChipError> {
        let mut context = self.context()?;
        let (handle, key) = attestation_key(&mut context)?;
        context.flush_context(handle.into())?;
        let secure_boot = register(&mut context, SECURE_BOOT)?;
        let sealed = secret.map(|secret| self.seal(&mut context, secret)).transpose()?;
        if let (Some(secret), Some(sealed)) = (secret, &sealed) {
            match self.open(&mut context, sealed) {
                Ok(given) if given == *secret => {}
                Ok(_) => return Err(ChipError::Strange("it gives back another secret than it was given")),
                Err(ChipError::NotSigned(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Tpm { key: Octets(key.public().to_vec()), secure_boot: sum(secure_boot), sealed })
    }

    /// The secret in `sealed`.
    ///
    /// # Errors
    /// It is not of this TPM, or this start is not as it should be.
    pub fn unseal(&self, sealed: &Sealed) -> Result<Secret, ChipError> {
        self.open(&mut self.context()?, sealed)
    }

    /// Its word on what was started, in answer to `question`. The caller adds what the question was about.
    ///
    /// # Errors
    /// It does not answer.
    pub fn quote(&self, question: Sum) -> Result<Quoted, ChipError> {
        let mut context = self.context()?;
        let log = postkeep_files::beginning(&self.log, LONGEST_LOG + 1)
            .ok()
            .filter(|log| log.len() as u64 <= LONGEST_LOG)
            .unwrap_or_default();
        let (handle, _) = attestation_key(&mut context)?;
        let selection = selection(REGISTERS)?;
        for _ in 0..TRIES {
            let registers = registers(&mut context)?;
            let (attest, signature) = context.execute_with_session(Some(AuthSession::Password), |context| {
                let question = Data::try_from(question.octets().to_vec())?;
                context.quote(handle, question, SignatureScheme::Null, selection.clone())
            })?;
            if self::registers(&mut context)? == registers {
                return Ok(Quoted {
                    attest: Octets(attest.marshall()?),
                    signature: Octets(signature.marshall()?),
                    registers: registers
                        .into_iter()
                        .map(|(number, value)| Register { number, value: sum(value) })
                        .collect(),
                    log: Octets(log),
                    certificate: None,
                });
            }
        }
        Err(ChipError::Strange("its registers do not come to rest"))
    }

    /// Leaves a mark that is there until the machine is started again: the volume was open.
    ///
    /// # Errors
    /// It does not answer.
    pub fn mark_opened(&self) -> Result<(), ChipError> {
        let mut context = self.context()?;
        if register(&mut context, OPENED)? != Value::ZERO {
            return Ok(());
        }
        let mut values = DigestValues::new();
        values.set(HashingAlgorithm::Sha256, Digest::try_from(Value::of(b"postkeep volume opened").0.to_vec())?);
        Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
            context.pcr_extend(PcrHandle::Pcr15, values)
        })?)
    }

    fn context(&self) -> Result<Context, ChipError> {
        Ok(Context::new(self.tpm.parse()?)?)
    }

    fn seal(&self, context: &mut Context, secret: &Secret) -> Result<Sealed, ChipError> {
        let (signer, name) = self.signer(context)?;
        context.flush_context(signer.into())?;
        let policy = policy_of_signer_and_7(name.value(), register(context, SECURE_BOOT)?);
        let attributes =
            ObjectAttributesBuilder::new().with_fixed_tpm(true).with_fixed_parent(true).with_no_da(true).build()?;
        let public = PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::KeyedHash)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_auth_policy(Digest::try_from(policy.0.to_vec())?)
            .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
            .with_keyed_hash_unique_identifier(Digest::default())
            .build()?;
        let parent = storage_key(context)?;
        let secret = SensitiveData::try_from(secret.expose().to_vec())?;
        let made =
            encrypted(context, parent, None, |context| context.create(parent, public, None, Some(secret), None, None))?;
        context.flush_context(parent.into())?;
        Ok(Sealed { public: Octets(made.out_public.marshall()?), private: Octets(made.out_private.value().to_vec()) })
    }

    fn open(&self, context: &mut Context, sealed: &Sealed) -> Result<Secret, ChipError> {
        let parent = storage_key(context)?;
        let (private, public) = (Private::try_from(sealed.private.0.clone())?, Public::unmarshall(&sealed.public.0)?);
        let handle = context
            .execute_with_session(Some(AuthSession::Password), |context| context.load(parent, private, public))?;
        let policy = self.policy(context)?;
        let data = encrypted(context, parent, Some(policy), |context| context.unseal(handle.into()))?;
        let octets = data.value();
        let mut is_whole = false;
        let secret = Secret::fill(|to| {
            is_whole = to.len() == octets.len();
            if is_whole {
                to.copy_from_slice(octets);
            }
        });
        if is_whole { Ok(secret) } else { Err(ChipError::Strange("what it has sealed is no secret of ours")) }
    }

    /// The key that signs values of PCR 11, in the TPM, and what the TPM calls it.
    fn signer(&self, context: &mut Context) -> Result<(KeyHandle, Name), ChipError> {
        let signer = signed_policy::rsa_key(&read(&self.signer)?)?;
        let key = context.load_external_public(public_of(&signer)?, Hierarchy::Owner)?;
        let (_, name, _) = context.read_public(key)?;
        Ok((key, name))
    }

    /// A session in which the TPM has seen that this start is one for which the builder of its boot file has signed, and which Secure Boot it has.
    fn policy(&self, context: &mut Context) -> Result<AuthSession, ChipError> {
        let value = register(context, SYSTEM)?;
        let signature = signed_policy::signature_of(&read(&self.signed)?, value)?.ok_or(ChipError::NotSigned(value))?;
        let session = context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )?
            .ok_or(ChipError::Strange("it opens no session"))?;
        let policy = PolicySession::try_from(session)?;
        let approved = policy_of_11(value);
        let (key, name) = self.signer(context)?;
        let ticket = context.verify_signature(
            key,
            Digest::try_from(Value::of(&approved.0).0.to_vec())?,
            Signature::RsaSsa(RsaSignature::create(HashingAlgorithm::Sha256, PublicKeyRsa::try_from(signature)?)?),
        )?;
        context.flush_context(key.into())?;
        // What is signed first, since it takes the place of what was before.
        context.policy_pcr(policy, Digest::default(), selection([SYSTEM])?)?;
        context.policy_authorize(policy, Digest::try_from(approved.0.to_vec())?, Nonce::default(), &name, ticket)?;
        context.policy_pcr(policy, Digest::default(), selection([SECURE_BOOT])?)?;
        Ok(session)
    }
}

/// Runs `work` so that its first parameter and what it gives back are encrypted between here and the TPM, with a key that only the TPM which has
/// `parent` can know. `policy`: the session that lets `work` be done; a password that is empty, where there is none.
fn encrypted<T>(
    context: &mut Context,
    parent: KeyHandle,
    policy: Option<AuthSession>,
    work: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
) -> Result<T, ChipError> {
    let session = context
        .start_auth_session(
            Some(parent),
            None,
            None,
            SessionType::Hmac,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )?
        .ok_or(ChipError::Strange("it opens no session"))?;
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    let first = policy.unwrap_or(AuthSession::Password);
    let done = context.execute_with_sessions((Some(first), Some(session), None), work);
    context.flush_context(SessionHandle::from(session).into())?;
    if let Some(policy) = policy {
        context.flush_context(SessionHandle::from(policy).into())?;
    }
    Ok(done?)
}

/// The key by which this TPM is known: always the same, made from its seed.
fn attestation_key(context: &mut Context) -> Result<(KeyHandle, AttestationKey), ChipError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Each cut of the power counts as a wrong password for what this does not stand on, and after some the TPM refuses for hours.
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    let made = primary(context, Hierarchy::Endorsement, public)?;
    Ok((made.0, AttestationKey::read(&made.1.marshall()?)?))
}

/// The key under which secrets are sealed: always the same too.
fn storage_key(context: &mut Context) -> Result<KeyHandle, ChipError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    )
    .build()?;
    let public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    Ok(primary(context, Hierarchy::Owner, public)?.0)
}

fn primary(context: &mut Context, hierarchy: Hierarchy, public: Public) -> Result<(KeyHandle, Public), ChipError> {
    let made = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(hierarchy, public, None, None, None, None)
    })?;
    Ok((made.key_handle, made.out_public))
}

/// The key that signs values of PCR 11, as a TPM takes it.
fn public_of(signer: &signed_policy::RsaKey) -> Result<Public, ChipError> {
    let bits = match signer.modulus.len() {
        256 => RsaKeyBits::Rsa2048,
        384 => RsaKeyBits::Rsa3072,
        512 => RsaKeyBits::Rsa4096,
        _ => return Err(ChipError::Strange("the key for PCR 11 is of a size that no TPM takes")),
    };
    let attributes = ObjectAttributesBuilder::new().with_user_with_auth(true).with_sign_encrypt(true).build()?;
    let parameters = PublicRsaParametersBuilder::new_unrestricted_signing_key(
        RsaScheme::Null,
        bits,
        RsaExponent::create(signer.exponent)?,
    )
    .build()?;
    Ok(PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::try_from(signer.modulus.clone())?)
        .build()?)
}

fn selection(registers: impl IntoIterator<Item = u32>) -> Result<PcrSelectionList, ChipError> {
    let slots: Vec<PcrSlot> =
        registers.into_iter().map(|register| PcrSlot::try_from(1_u32 << register)).collect::<Result<_, _>>()?;
    Ok(PcrSelectionList::builder().with_selection(HashingAlgorithm::Sha256, &slots).build()?)
}

fn register(context: &mut Context, register: u32) -> Result<Value, ChipError> {
    let (_, _, values) =
        context.execute_without_session(|context| Ok::<_, ChipError>(context.pcr_read(selection([register])?)?))?;
    let value = values.value().first().and_then(|value| value.value().try_into().ok());
    value.map(Value).ok_or(ChipError::Strange("it has no registers of SHA-256"))
}

fn registers(context: &mut Context) -> Result<BTreeMap<u32, Value>, ChipError> {
    REGISTERS.into_iter().map(|number| Ok((number, register(context, number)?))).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ChipError> {
    let failed = |error| ChipError::Read { path: path.to_owned(), error };
    if fs::metadata(path).map_err(failed)?.len() > LARGEST_FILE {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    postkeep_files::beginning(path, LARGEST_FILE).map_err(failed)
}

fn sum(value: Value) -> Sum {
    Sum::from(value.0)
}
