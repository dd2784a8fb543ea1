import { TextItem } from '@jupyterlab/statusbar';
import type { ITranslator } from '@jupyterlab/translation';
import { VDomRenderer } from '@jupyterlab/ui-components';
import React from 'react';
import type { ISandboxModel } from '../../tokens';
import { describe } from '../../words';

/**
 * The status-bar item that names the machine behind the notebook in front; a click takes a snapshot.
 */
export class StatusItem extends VDomRenderer<ISandboxModel> {
  /**
   * @param snapshot takes one of the machine that is shown.
   */
  constructor(
    model: ISandboxModel,
    translator: ITranslator,
    snapshot: () => void
  ) {
    super(model);
    this._translator = translator;
    this._snapshot = snapshot;
    this.addClass('jp-VSandbox-status');
  }

  protected override render(): React.ReactElement | null {
    const trans = this._translator.load('jupyter_vsandbox');
    const text = describe(this.model.status, trans);
    if (!text) {
      return null;
    }
    if (!this.model.sandbox) {
      return (
        <TextItem
          role="status"
          aria-label={text.label}
          source={text.source}
          title={text.hint}
        />
      );
    }
    const hint = trans.__('%1. Click to take a snapshot', text.hint);
    return (
      <button
        type="button"
        className="jp-VSandbox-statusButton"
        aria-label={trans.__('%1. Take a snapshot', text.label)}
        title={hint}
        onClick={this._snapshot}
      >
        <TextItem source={text.source} title={hint} />
      </button>
    );
  }

  private readonly _translator: ITranslator;
  private readonly _snapshot: () => void;
}
