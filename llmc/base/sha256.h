// SHA-256 (FIPS 180-4) and HMAC with it (RFC 2104): how ranks show each other that they know the job's secret.
#pragma once
#include <string>
#include <string_view>

std::string sha256(std::string_view bytes);                            // 32 bytes
std::string hmac_sha256(std::string_view key, std::string_view text);  // 64 hex digits
std::string random_hex(size_t bytes);                                  // of the system's generator; two digits a byte
