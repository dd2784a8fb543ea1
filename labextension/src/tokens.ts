import type { VDomRenderer } from '@jupyterlab/ui-components';
import { Token } from '@lumino/coreutils';

/**
 * The states of a sandbox, as the server names them.
 */
export type SandboxState =
  | 'starting'
  | 'standby'
  | 'running'
  | 'restoring'
  | 'hibernated'
  | 'stopping'
  | 'stopped';

/**
 * One sandbox, as `GET vsandbox/api/sandboxes` describes it (see openapi.yaml).
 */
export interface ISandbox {
  readonly id: string;
  readonly runtime: string;
  readonly driver: string;
  readonly state: SandboxState;
  /** The kernel it serves, '' for none. */
  readonly kernel_id: string;
  /** Whether its code is translated in software; null where that is not known. */
  readonly emulated: boolean | null;
}

/**
 * What the project's server extension is asked.
 */
export interface ISandboxService {
  /**
   * All sandboxes of this user.
   *
   * Rejects with `ServerConnection.NetworkError` where the server does not answer and with
   * `ServerConnection.ResponseError` where it answers with an error.
   */
  list(): Promise<ISandbox[]>;
}

/**
 * The service, for other extensions too.
 */
export const ISandboxService = new Token<ISandboxService>(
  'jupyter-vsandbox:ISandboxService',
  'Asks the server about the virtual machines behind notebook kernels.'
);

/**
 * What is known of the machine behind the notebook in front.
 *
 * - `none`: no notebook, no kernel, or a kernel without a sandbox;
 * - `asking`: the server has not answered yet;
 * - `known`: the server's answer, `null` where it knows of no such sandbox;
 * - `unreachable`: the server did not answer;
 * - `failed`: the server answered with an error.
 */
export type SandboxStatus =
  | { readonly kind: 'none' }
  | { readonly kind: 'asking'; readonly title: string }
  | {
      readonly kind: 'known';
      readonly title: string;
      readonly sandbox: ISandbox | null;
    }
  | {
      readonly kind: 'unreachable' | 'failed';
      readonly title: string;
      readonly reason: string;
    };

/**
 * What views read.
 */
export interface ISandboxModel extends VDomRenderer.IModel {
  readonly status: SandboxStatus;
}
